//! A slow line on this machine, for benches that need one: two network namespaces and a queue that lets so much through.

use std::net::IpAddr;
use std::process::Command;

/// A host, in a namespace of its own, that a slow line leads to, through a router. What is sent too fast waits in the
/// router, as it does in people's modems: a host's own queue is never filled by the host itself. Dropped, it is taken away.
pub struct Line {
    name: String,
    router: String,
    /// This host's address on it.
    pub here: IpAddr,
}

impl Line {
    /// On which TCP behaves so: `reno`, or `bbr`, which fills no queues; and which lets so much through, as `tc` has it:
    /// `10mbit`.
    pub fn make(control: &str, rate: &str) -> Option<Self> {
        // A name is free again only a while after its namespace is gone.
        let number = format!("{}{}", std::process::id(), &control[..1]);
        let name = format!("storewatch-{number}");
        let line = Self { router: format!("{name}-router"), name, here: "10.213.77.1".parse().unwrap() };
        let Self { name, router, here } = &line;
        let (near, far) = (format!("sw{number}a"), format!("sw{number}b"));
        let shape = format!("root tbf rate {rate} burst 15kb latency 200ms");
        let steps = [
            format!("ip netns add {router}"),
            format!("ip netns add {name}"),
            format!("ip link add {near} type veth peer name outer netns {router}"),
            format!("ip -n {router} link add inner type veth peer name {far} netns {name}"),
            format!("ip addr add {here}/30 dev {near}"),
            format!("ip -n {router} addr add 10.213.77.2/30 dev outer"),
            format!("ip -n {router} addr add 10.213.77.5/30 dev inner"),
            format!("ip -n {name} addr add 10.213.77.6/30 dev {far}"),
            format!("ip link set {near} gso_max_segs 1 up"),
            format!("ip -n {router} link set outer gso_max_segs 1 up"),
            format!("ip -n {router} link set inner gso_max_segs 1 up"),
            format!("ip -n {name} link set {far} gso_max_segs 1 up"),
            format!("ip -n {name} link set lo up"),
            "ip route add 10.213.77.4/30 via 10.213.77.2".to_owned(),
            format!("ip -n {name} route add default via 10.213.77.5"),
            format!("ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1"),
            format!("ip netns exec {name} sysctl -qw net.ipv4.tcp_congestion_control={control}"),
            format!("tc -n {router} qdisc add dev outer {shape}"),
            format!("tc -n {router} qdisc add dev inner {shape}"),
        ];
        for step in steps {
            let mut words = step.split(' ');
            let done = Command::new(words.next().unwrap()).args(words).output();
            if !done.as_ref().is_ok_and(|done| done.status.success()) {
                let said = |done: std::process::Output| String::from_utf8_lossy(&done.stderr).into_owned();
                let why = done.map_or_else(|error| error.to_string(), said);
                println!("skipped: there is no line to measure on: {step}: {}", why.trim());
                return None;
            }
        }
        Some(line)
    }

    /// The same command, at the other end of the line.
    pub fn within(&self, command: Command) -> Command {
        let mut within = Command::new("ip");
        within.args(["netns", "exec", &self.name]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => within.env(name, value),
                None => within.env_remove(name),
            };
        }
        within
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for name in [&self.name, &self.router] {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}
