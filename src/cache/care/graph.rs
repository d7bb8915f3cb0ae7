//! Which path refers to which, over the paths of one cache. Pure.

/// Paths and their references, by their places in a list.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// Where the references of each begin; one more at the end.
    starts: Vec<u32>,
    references: Vec<u32>,
}

impl Graph {
    /// Of the references of each path. One that refers to itself doesn't need itself.
    pub(super) fn new(references: impl IntoIterator<Item = impl IntoIterator<Item = u32>>) -> Self {
        let mut graph = Self { starts: vec![0], references: Vec::new() };
        for (place, references) in (0_u32..).zip(references) {
            graph.references.extend(references.into_iter().filter(|reference| *reference != place));
            // Nix allows some thousand references; 2³² of all are those of a hundred million paths.
            graph.starts.push(u32::try_from(graph.references.len()).unwrap_or(u32::MAX));
        }
        graph
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }

    pub(super) fn references(&self, place: u32) -> &[u32] {
        let place = place as usize;
        &self.references[self.starts[place] as usize..self.starts[place + 1] as usize]
    }

    /// Marks these and all that they need.
    pub(super) fn mark_closure(&self, from: impl IntoIterator<Item = u32>, marked: &mut [bool]) {
        let mut waiting: Vec<u32> = from.into_iter().collect();
        while let Some(place) = waiting.pop() {
            if !std::mem::replace(&mut marked[place as usize], true) {
                waiting.extend(self.references(place).iter().filter(|reference| !marked[**reference as usize]));
            }
        }
    }

    /// Which circle each path belongs to: most are alone in one. Circles are numbered so that none refers to one with a
    /// higher number. Nix knows no circles of several paths, but whoever fills a cache may.
    ///
    /// Tarjan's algorithm, with a stack of its own: chains of paths are longer than a thread's stack.
    pub(super) fn circles(&self) -> Vec<u32> {
        const UNSEEN: u32 = u32::MAX;
        let count = self.len();
        let (mut circles, mut order, mut low) = (vec![UNSEEN; count], vec![UNSEEN; count], vec![0; count]);
        let (mut next_order, mut next_circle) = (0, 0);
        let mut open = Vec::new();
        // Each path on the way, and how many of its references have been looked at.
        let mut way: Vec<(u32, usize)> = Vec::new();
        for root in 0..u32::try_from(count).unwrap_or(UNSEEN) {
            if order[root as usize] != UNSEEN {
                continue;
            }
            way.push((root, 0));
            while let Some((place, looked_at)) = way.last_mut() {
                let at = *place as usize;
                if *looked_at == 0 {
                    (order[at], low[at]) = (next_order, next_order);
                    next_order += 1;
                    open.push(*place);
                }
                if let Some(reference) = self.references(*place).get(*looked_at) {
                    *looked_at += 1;
                    let reference = *reference as usize;
                    if order[reference] == UNSEEN {
                        way.push((reference as u32, 0));
                    } else if circles[reference] == UNSEEN {
                        low[at] = low[at].min(order[reference]);
                    }
                    continue;
                }
                if low[at] == order[at] {
                    while let Some(member) = open.pop() {
                        circles[member as usize] = next_circle;
                        if member as usize == at {
                            break;
                        }
                    }
                    next_circle += 1;
                }
                way.pop();
                if let Some((before, _)) = way.last() {
                    let before = *before as usize;
                    low[before] = low[before].min(low[at]);
                }
            }
        }
        circles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn circles_come_after_what_they_refer_to() {
        // 0 → 1 ⇄ 2 → 3, and 4 alone, which refers to itself.
        let graph = Graph::new([vec![1], vec![2], vec![1, 3], vec![], vec![4]]);
        let circles = graph.circles();
        assert_eq!(circles[1], circles[2]);
        assert!(circles[3] < circles[1] && circles[1] < circles[0], "{circles:?}");
        assert!(graph.references(4).is_empty());
        let mut marked = vec![false; 5];
        graph.mark_closure([1], &mut marked);
        assert_eq!(marked, [false, true, true, true, false]);
    }

    #[test]
    fn a_chain_may_be_of_any_length() {
        let count = 300_000;
        let graph = Graph::new((0..count).map(|place| (place + 1 < count).then_some(place + 1)));
        assert!(graph.circles().is_sorted_by(|one, two| one > two));
    }
}
