//! What holds of every plan, whatever refers to what.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const NOW: Seconds = 1_000;

#[derive(Clone, Debug)]
struct Case {
    nodes: Vec<Node>,
    references: Vec<BTreeSet<u32>>,
    archives: Vec<u64>,
    terms: Terms,
}

fn case() -> impl Strategy<Value = Case> {
    (1..24usize, 1..12usize).prop_flat_map(|(count, archives)| {
        let node = (0..NOW + 50, 1..50u64, proptest::option::weighted(0.9, 0..archives as u32));
        let node = node.prop_map(|(modified, size, archive)| Node { modified, size, archive });
        // Any may refer to any: there are circles, too.
        let references = proptest::collection::btree_set(0..count as u32, 0..4);
        (
            proptest::collection::vec(node, count),
            proptest::collection::vec(references, count),
            proptest::collection::vec(0..200u64, archives),
            (proptest::option::of(0..NOW), 0..NOW, proptest::option::of(0..3_000u64)),
        )
            .prop_map(|(nodes, references, archives, (keep, grace, max_size))| {
                let terms = Terms { now: NOW, keep, grace, max_size };
                Case { nodes, references, archives, terms }
            })
    })
}

impl Case {
    fn graph(&self) -> Graph {
        Graph::new(self.references.iter().map(|references| references.iter().copied()))
    }

    fn plan(&self) -> Plan {
        plan(&self.nodes, &self.graph(), &self.archives, 0, &self.terms)
    }

    fn age(&self, place: usize) -> Seconds {
        NOW.saturating_sub(self.nodes[place].modified)
    }

    /// What is there when the plan has been carried out.
    fn after(&self, plan: &Plan) -> Self {
        let stays: Vec<usize> = (0..self.nodes.len()).filter(|place| plan.fates[*place] != Fate::Goes).collect();
        let new_place = |old: u32| stays.binary_search(&(old as usize)).ok().map(|place| place as u32);
        Self {
            nodes: stays.iter().map(|place| self.nodes[*place]).collect(),
            references: stays
                .iter()
                .map(|place| self.references[*place].iter().filter_map(|old| new_place(*old)).collect())
                .collect(),
            ..self.clone()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_stays_lacks_no_reference(case in case()) {
        let plan = case.plan();
        for (place, references) in case.references.iter().enumerate() {
            let stays = |place: usize| plan.fates[place] != Fate::Goes;
            prop_assert!(!stays(place) || references.iter().all(|reference| stays(*reference as usize)), "{place} {plan:?}");
        }
    }

    #[test]
    fn nothing_young_goes(case in case()) {
        for (place, fate) in case.plan().fates.iter().enumerate() {
            let goes = *fate == Fate::Goes;
            prop_assert!(!goes || case.age(place) >= case.terms.grace);
            let kept = case.terms.keep.is_some_and(|keep| case.age(place) < keep);
            prop_assert!(!goes || !kept || case.terms.max_size.is_some());
        }
    }

    #[test]
    fn what_is_old_and_not_needed_goes(case in case()) {
        let Some(keep) = case.terms.keep else { return Ok(()) };
        let plan = case.plan();
        let mut needed = vec![false; case.nodes.len()];
        let young = (0..case.nodes.len()).filter(|place| case.age(*place) < keep.max(case.terms.grace));
        case.graph().mark_closure(young.map(|place| place as u32), &mut needed);
        for (place, fate) in plan.fates.iter().enumerate() {
            prop_assert!(needed[place] || *fate == Fate::Goes, "{place} {plan:?}");
        }
    }

    #[test]
    fn a_second_prune_finds_nothing(case in case()) {
        let plan = case.plan();
        let again = case.after(&plan).plan();
        prop_assert_eq!(again.groups.concat(), Vec::<u32>::new());
        prop_assert_eq!(again.size, plan.size);
    }

    #[test]
    fn tops_go_first(case in case()) {
        let (plan, circles) = (case.plan(), case.graph().circles());
        let group = |place: u32| plan.groups.iter().position(|group| group.contains(&place));
        for (place, references) in (0_u32..).zip(&case.references) {
            prop_assert_eq!(group(place).is_some(), plan.fates[place as usize] == Fate::Goes);
            for reference in references.iter().filter(|other| circles[**other as usize] != circles[place as usize]) {
                let (own, its) = (group(place), group(*reference));
                prop_assert!(own.is_none() || its.is_none() || own < its, "{place} {reference} {plan:?}");
            }
        }
    }

    /// It fits then, or each top that is left is too young, or is in a circle with one that is.
    #[test]
    fn the_rest_fits_as_far_as_it_may(case in case()) {
        let (plan, graph) = (case.plan(), case.graph());
        let Some(max_size) = case.terms.max_size.filter(|max_size| plan.size > *max_size) else { return Ok(()) };
        let mut needed = vec![false; case.nodes.len()];
        let young = (0..case.nodes.len()).filter(|place| case.age(*place) < case.terms.grace);
        graph.mark_closure(young.map(|place| place as u32), &mut needed);
        for (place, fate) in plan.fates.iter().enumerate() {
            prop_assert!(*fate == Fate::Goes || needed[place], "{place} could go for {max_size}: {plan:?}");
        }
    }
}

#[test]
fn the_oldest_tops_go_until_the_rest_fits() {
    // 0 and 1 share an archive and refer to 2, which is older than both.
    let node = |modified, archive| Node { modified, size: 1, archive: Some(archive) };
    let nodes = [node(100, 0), node(200, 0), node(50, 1), node(150, 2)];
    let graph = Graph::new([vec![2], vec![2], vec![], vec![]]);
    let fates = |max_size| {
        let terms = Terms { now: NOW, keep: None, grace: 10, max_size: Some(max_size) };
        plan(&nodes, &graph, &[1_000, 100, 10], 0, &terms).fates
    };
    use Fate::{Goes, Kept};
    assert_eq!(fates(1_114), [Kept, Kept, Kept, Kept]);
    assert_eq!(fates(1_113), [Goes, Kept, Kept, Kept]);
    assert_eq!(fates(1_112), [Goes, Kept, Kept, Goes]);
    assert_eq!(fates(500), [Goes, Goes, Kept, Goes], "without the two, the rest fits");
    assert_eq!(fates(100), [Goes, Goes, Goes, Goes]);
}
