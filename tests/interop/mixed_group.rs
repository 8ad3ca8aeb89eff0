//! Consumer groups of processors of several kinds, through joins, polite stops, crashes and returns, while events come.
//!
//! Each has its own way to share: what all of them promise is that every partition is read, that loads end within one
//! of each other, and that nobody takes from anybody then. What was checkpointed is not read again by whoever comes
//! next, and nothing is left out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use eventhubs_emulator::Emulator;

use crate::program::{Line, Program};
use crate::setup::{Blobs, Group, START, Tools, emulator_at_5672, poll, report, within};
use crate::strangers::Stranger;
use crate::timeline::{Term, Union, errors, event, terms};

const HUB: &str = "mixed";
const PARTITIONS: [&str; 6] = ["0", "1", "2", "3", "4", "5"];
const INTERVAL: Duration = Duration::from_secs(1);
/// Long enough for a machine that is busy with starting programs.
const EXPIRATION: Duration = Duration::from_secs(12);
const CHECKPOINT_EVERY: usize = 7;
/// Until loads are even: those who take one partition in each interval need that many, after what has to expire.
const SETTLE: Duration = Duration::from_secs(90);
/// How long nothing may move then.
const CALM: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ours,
    Stranger(Stranger),
}

/// A processor of the group, running or ended.
struct Member {
    kind: Kind,
    program: Program,
    is_running: bool,
}

/// Everybody who was ever in the group.
struct Mixed<'a> {
    tools: &'a Tools,
    group: Group,
    container_url: String,
    members: Vec<Member>,
}

impl<'a> Mixed<'a> {
    async fn new(tools: &'a Tools, emulator: &Emulator) -> Self {
        let group = Group::of(tools, emulator, HUB, Blobs::Azurite).await;
        Self {
            tools,
            container_url: group.container_url().await,
            group,
            members: Vec::new(),
        }
    }

    /// Returns its place among the members.
    fn join(&mut self, kind: Kind) -> usize {
        let place = self.members.len();
        let name = format!("{kind:?} ({place})");
        let command = match kind {
            Kind::Ours => self.group.consumer(),
            Kind::Stranger(stranger) => {
                let command = stranger.consumer(self.tools).unwrap();
                self.group.with_environment(command)
            }
        };
        let program = command
            .named(&name)
            .env("EVENTHUBS_CONSUMER_GROUP", "$default")
            .env("CONTAINER_URL", &self.container_url)
            .env("LOAD_BALANCING_INTERVAL_MS", millis(INTERVAL))
            .env("OWNERSHIP_EXPIRATION_MS", millis(EXPIRATION))
            .env("CHECKPOINT_EVERY", CHECKPOINT_EVERY.to_string())
            .spawn();
        self.members.push(Member {
            kind,
            program,
            is_running: true,
        });
        place
    }

    /// Waits until all that run have their share, and then sees that nothing moves.
    async fn settles(&self, what: &str) {
        let started = Instant::now();
        let is_settled = async || {
            let loads = self.loads();
            let (least, most) = (loads.iter().min()?, loads.iter().max()?);
            let is_even = loads.iter().sum::<usize>() == PARTITIONS.len() && most - least <= 1;
            let mut stored: Vec<_> = self.group.owners().await.into_values().collect();
            let mut expected = loads.clone();
            stored.sort_unstable();
            expected.sort_unstable();
            (is_even && stored == expected).then_some(())
        };
        if poll(SETTLE, is_settled).await.is_none() {
            panic!("{what}: not settled within {SETTLE:?}: {self:?}");
        }
        let took = started.elapsed();
        let before = self.owner_of_each().await;
        let began = Instant::now();
        self.all_are_read_after(began).await;
        tokio::time::sleep(CALM.saturating_sub(began.elapsed())).await;
        assert_eq!(self.owner_of_each().await, before, "{what}: {self:?}");
        // INTEROP: one stolen link costs the official Rust processor its connection. It begins again with what it owns,
        // some time later; the records and that all is read are what can be judged of it.
        let steady = |member: &&Member| member.kind != Kind::Stranger(Stranger::Rust015);
        for member in self.running().filter(steady) {
            let moved = |line: &&Line| {
                let lifecycle = line.value["lifecycle"].as_str();
                line.at > began && matches!(lifecycle, Some("initialize" | "close"))
            };
            let moved = member.program.lines().iter().find(moved).cloned();
            assert!(moved.is_none(), "{what}: {moved:?}: {:?}", member.program);
        }
        report(&format!("{what}: {:?} after {took:?}", self.loads()));
    }

    /// The partitions that each running member reads, by what it says.
    fn loads(&self) -> Vec<usize> {
        let loads = self.running().map(|member| held(member).len());
        loads.collect()
    }

    async fn owner_of_each(&self) -> BTreeMap<String, Option<String>> {
        let listing = self.group.listing().await;
        let owners = listing.into_iter().map(|ownership| {
            let owner = ownership.owner_id.map(|id| id.as_str().to_owned());
            (ownership.partition_id.as_str().to_owned(), owner)
        });
        owners.collect()
    }

    async fn all_are_read_after(&self, instant: Instant) {
        let is_read = |partition: &&str| {
            let mut lines = self
                .members
                .iter()
                .flat_map(|member| member.program.lines());
            lines.any(|line| line.at > instant && event(&line, partition).is_some())
        };
        let all_are_read = async || PARTITIONS.iter().all(is_read).then_some(());
        if poll(START, all_are_read).await.is_none() {
            panic!("not all partitions are read: {self:?}");
        }
    }

    /// The first event of the partition that was read by whoever got it after a certain term.
    fn next_after(&self, partition: &str, gone: &Term) -> Option<i64> {
        let later = self.members.iter().flat_map(|member| {
            let terms = terms(&member.program.lines(), partition);
            terms.into_iter().filter(|term| term.began > gone.began)
        });
        let next = later.min_by_key(|term| term.began)?;
        next.events.map(|(first, _)| first)
    }

    /// Ends a member at once. What it read goes on after its last checkpoint.
    async fn crash(&mut self, place: usize) {
        let held = held(&self.members[place]);
        let member = &mut self.members[place];
        member.program.kill().await;
        member.is_running = false;
        self.is_handed_over(place, &held).await;
    }

    /// Ends a member politely. What it read goes on after its last checkpoint.
    async fn stop(&mut self, place: usize) {
        let held = held(&self.members[place]);
        let member = &mut self.members[place];
        member.program.terminate(START).await;
        member.is_running = false;
        self.is_handed_over(place, &held).await;
    }

    /// Looks at the partitions that a member read when it ended.
    async fn is_handed_over(&self, place: usize, held: &[&str]) {
        assert!(!held.is_empty(), "{:?}", self.members[place].program);
        let gone = &self.members[place];
        for partition in held {
            let term = terms(&gone.program.lines(), partition).pop().unwrap();
            let Some((_, last)) = term.events else {
                panic!("partition {partition} was not read: {:?}", gone.program);
            };
            let next = poll(SETTLE, async || self.next_after(partition, &term)).await;
            let first =
                next.unwrap_or_else(|| panic!("nobody reads partition {partition}: {self:?}"));
            // Ours says nothing of checkpoints, and has written one before it says `close`.
            let is_ours_closed = gone.kind == Kind::Ours && term.closed.is_some();
            let checkpoint = if is_ours_closed {
                last
            } else {
                term.checkpoint.unwrap_or(-1)
            };
            assert!(
                checkpoint < first && first <= last + 1,
                "partition {partition}: the last checkpoint was {checkpoint}, the last event {last}, \
                 and whoever came next began with {first}: {self:?}"
            );
        }
    }

    fn running(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.is_running)
    }

    /// Ends everybody once they have read everything. Nothing is lost, and nobody was told of anything but losing a
    /// partition to another.
    async fn closes_the_books(mut self, emulator: &Emulator) {
        let last_of = |partition: &str| {
            let properties = emulator.partition_properties(HUB, partition).unwrap();
            properties.last_enqueued_sequence_number
        };
        let has_read_all = async || {
            let union = self.union();
            let is_read = |partition: &&str| union.has(partition, last_of(partition));
            PARTITIONS.iter().all(is_read).then_some(())
        };
        if poll(START, has_read_all).await.is_none() {
            panic!("the last events are not read: {self:?}");
        }
        for member in &mut self.members {
            if member.is_running {
                member.program.terminate(START).await;
            }
        }
        let union = self.union();
        for partition in PARTITIONS {
            union.assert_complete(partition, last_of(partition));
        }
        for member in &self.members {
            let lines = member.program.lines();
            for partition in PARTITIONS {
                let record = emulator.events(HUB, partition).unwrap();
                for (number, body) in lines.iter().filter_map(|line| event(line, partition)) {
                    let sent = &record[usize::try_from(number).unwrap()];
                    assert_eq!(body.as_bytes(), sent.body, "{:?}", member.program);
                }
            }
            // INTEROP: the official Rust client loses its connection with a partition; see `rust-0.15/src/consume.rs`.
            if member.kind == Kind::Stranger(Stranger::Rust015) {
                continue;
            }
            let errors = errors(&lines);
            let others = errors.iter().filter(|error| !is_loss(error));
            assert_eq!(
                others.count(),
                0,
                "{:?} was told of {errors:?}",
                member.kind
            );
        }
        report(&format!(
            "{} events, {} of them again",
            union.events(),
            union.duplicates()
        ));
    }

    fn union(&self) -> Union {
        let programs: Vec<_> = self.members.iter().map(|member| &member.program).collect();
        Union::of(&programs)
    }
}

impl std::fmt::Debug for Mixed<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "loads {:?}", self.loads())?;
        self.running()
            .try_for_each(|member| write!(f, "{:?}", member.program))
    }
}

/// The partitions that a member reads. As long as the group is settled, it has them until it ends.
fn held(member: &Member) -> Vec<&'static str> {
    let lines = member.program.lines();
    let is_held = |partition: &&str| {
        let last = terms(&lines, partition).pop();
        last.is_some_and(|term| term.closed.is_none())
    };
    PARTITIONS.into_iter().filter(is_held).collect()
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}

/// What a processor says when another has taken its partition, each in its way.
fn is_loss(error: &str) -> bool {
    let names = [
        "OwnershipLost",
        "ReceiverDisconnectedError",
        "ConsumerDisconnected",
        "amqp:link:stolen",
    ];
    names.iter().any(|name| error.contains(name))
}

/// Sends without end: 50 events a second, to all partitions in turn.
async fn send(emulator: &Emulator) {
    let mut turn = tokio::time::interval(Duration::from_millis(20));
    for number in 0_usize.. {
        turn.tick().await;
        let partition = PARTITIONS[number % PARTITIONS.len()];
        let body = format!("e-{number}");
        emulator.send(HUB, Some(partition), &*body).unwrap();
    }
}

async fn run(tools: Tools, scenario: impl AsyncFnOnce(&mut Mixed<'_>)) {
    let emulator = emulator_at_5672(|builder| builder.with_hub(HUB, 6)).await;
    let mut mixed = Mixed::new(&tools, &emulator).await;
    tokio::select! {
        () = send(&emulator) => {}
        () = scenario(&mut mixed) => {}
    }
    mixed.closes_the_books(&emulator).await;
    emulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ours_python_and_javascript_share_a_group() {
    let Some(tools) = Tools::from_env("ours_python_and_javascript_share_a_group") else {
        return;
    };
    let python = Kind::Stranger(Stranger::PythonAio);
    let js = Kind::Stranger(Stranger::Js);
    within(
        Duration::from_secs(600),
        run(tools, async |group: &mut Mixed<'_>| {
            let python_1 = group.join(python);
            group.settles("Python alone").await;
            let js_1 = group.join(js);
            group.settles("JS joined").await;
            let ours_1 = group.join(Kind::Ours);
            group.settles("ours joined").await;
            group.crash(js_1).await;
            group.settles("JS crashed").await;
            let js_2 = group.join(js);
            group.settles("JS is back").await;
            group.stop(ours_1).await;
            group.settles("ours stopped").await;
            let ours_2 = group.join(Kind::Ours);
            group.settles("ours is back").await;
            group.stop(python_1).await;
            group.settles("Python stopped").await;
            group.stop(js_2).await;
            group.settles("JS stopped").await;
            group.join(js);
            group.join(python);
            group.settles("both are back").await;
            group.crash(ours_2).await;
            group.settles("ours crashed").await;
        }),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ours_python_and_the_official_rust_processor_share_a_group() {
    let test = "ours_python_and_the_official_rust_processor_share_a_group";
    let Some(tools) = Tools::from_env(test) else {
        return;
    };
    let rust = Kind::Stranger(Stranger::Rust015);
    within(
        Duration::from_secs(600),
        run(tools, async |group: &mut Mixed<'_>| {
            let rust_1 = group.join(rust);
            group.settles("Rust alone").await;
            let ours_1 = group.join(Kind::Ours);
            group.settles("ours joined").await;
            group.crash(rust_1).await;
            group.settles("Rust crashed").await;
            let rust_2 = group.join(rust);
            group.settles("Rust is back").await;
            group.stop(ours_1).await;
            group.settles("ours stopped").await;
            group.join(Kind::Ours);
            group.settles("ours is back").await;
            group.join(Kind::Stranger(Stranger::PythonAio));
            group.settles("Python joined").await;
            group.stop(rust_2).await;
            group.settles("Rust stopped").await;
        }),
    )
    .await;
}
