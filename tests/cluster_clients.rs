//! What clients and operators of a cluster see, in every protocol and on the command line.

mod support;

use std::process::Output;
use std::time::{Duration, Instant};

use kvorum::client::{Connection, Reply};
use kvorum_protocol::binary::RequestHead;
use kvorum_protocol::{
    Command, ErrorCode, LogIndex, MembersLine, NodeId, Op, Quorum, Read, Request,
};
use support::child::Ends as _;
use support::client::Text;
use support::cluster::Cluster;
use support::server::kvorum;
use support::{deadline, until};

const SET: Request<'static> =
    Request::Write(Command { session: None, op: Op::Set { key: b"k", value: b"v" } });
const GET: Request<'static> = Request::Read(Read::Get(b"k"));

fn binary(cluster: &Cluster, id: usize) -> Connection {
    Connection::open(cluster.address(id), deadline()).expect("the node accepts connections")
}

fn call(connection: &mut Connection, head: RequestHead, request: &Request<'_>) -> Reply {
    connection.call(head, request, deadline()).expect("an answer")
}

/// A connection that speaks RESP2 in lines.
struct Resp(Text);

impl Resp {
    fn connect(cluster: &Cluster, id: usize) -> Resp {
        let mut text = Text::connect(cluster.address(id));
        // The first byte chooses the protocol.
        text.raw().send(b"*1\r\n$4\r\nPING\r\n");
        assert_eq!(text.reply(), "+PONG\r");
        Resp(text)
    }

    /// Sends an inline command; answers the first line of the reply.
    fn ask(&mut self, command: &str) -> String {
        self.0.ask(command).trim_end().to_owned()
    }

    /// A further line of the reply.
    fn line(&mut self) -> String {
        self.0.reply().trim_end().to_owned()
    }
}

fn run(cluster: &Cluster, arguments: &[&str]) -> Output {
    kvorum().args(arguments).env("KVORUM_SERVERS", cluster.servers()).output_in_time().unwrap()
}

#[track_caller]
fn prints(output: &Output, stdout: &str) {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{output:?}");
}

#[test]
fn a_follower_names_the_leader_in_every_protocol() {
    let cluster = Cluster::start_with(3, 1, &[]);
    let leader = cluster.leader();
    let address = cluster.address(leader).to_owned();
    let others = (1..=4).filter(|&id| id != leader);
    for id in others {
        let mut text = cluster.text(id);
        assert_eq!(text.ask("SET k v"), format!("NOT_LEADER leader={address}"));
        assert_eq!(text.ask("DELETE k"), format!("NOT_LEADER leader={address}"));
        assert_eq!(text.ask("WHO_IS_LEADER"), format!("LEADER {address}"));
        assert_eq!(text.ask("TRANSFER"), format!("NOT_LEADER leader={address}"));
        let mut connection = binary(&cluster, id);
        let head = RequestHead::default();
        let not_leader = Reply::NotLeader { leader: address.clone() };
        assert_eq!(call(&mut connection, head, &SET), not_leader);
        assert_eq!(call(&mut connection, head, &Request::Transfer { to: None }), not_leader);
        let named = Reply::Leader(Some(address.clone()));
        assert_eq!(call(&mut connection, head, &Request::WhoIsLeader), named);
        let everybody = MembersLine {
            id: NodeId(u16::try_from(id).unwrap()),
            leader: Some(NodeId(u16::try_from(leader).unwrap())),
            members: cluster.member_list(),
            index: Some(LogIndex(1)),
            cluster: Some(cluster.member_list().cluster_id()),
        };
        let everybody = everybody.to_string();
        assert_eq!(text.ask("MEMBERS"), format!("MEMBERS {everybody}"));
        assert_eq!(call(&mut connection, head, &Request::Members), Reply::Members(everybody));
        let mut resp = Resp::connect(&cluster, id);
        let read_only = "-READONLY You can't write against a read only replica.";
        assert_eq!(resp.ask("SET k v"), read_only);
        assert_eq!(resp.ask("DEL k j"), read_only);
        assert_eq!(resp.ask("WAIT 1 0"), "-ERR WAIT cannot be used with replica instances.");
        // Nothing of all this was applied, and every node knows.
        assert_eq!(text.ask("GET k"), "NOT_FOUND");
        assert_eq!(call(&mut connection, head, &GET), Reply::NotFound);
        assert_eq!(resp.ask("GET k"), "$-1");
    }
}

#[test]
fn without_a_leader_writes_are_refused_and_only_r_1_is_answered() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    assert_eq!(cluster.text(leader).ask("SET k v"), "OK");
    let followers = cluster.followers();
    cluster.wait_until_applied(&followers);
    let left = followers[0];
    cluster.kill(leader);
    cluster.kill(followers[1]);
    until("nobody leads", || (cluster.node(left).status("leader") == "none").then_some(()));
    let mut text = cluster.text(left);
    assert!(text.ask("SET k w").starts_with("ERROR NO_LEADER "));
    assert!(text.ask("GET k").starts_with("ERROR NO_LEADER "));
    assert_eq!(text.ask("WHO_IS_LEADER"), "NO_LEADER");
    let answer = text.ask("MEMBERS");
    let members = MembersLine::parse(answer.strip_prefix("MEMBERS ").unwrap()).unwrap();
    assert_eq!((members.leader, members.members), (None, cluster.member_list()));
    assert_eq!(text.ask("QUORUM r=1"), "OK");
    assert_eq!(text.ask("GET k"), "VALUE v");
    let mut connection = binary(&cluster, left);
    let head = RequestHead::default();
    let refused = |reply: &Reply| matches!(reply, Reply::Error { code: ErrorCode::NoLeader, .. });
    assert!(refused(&call(&mut connection, head, &SET)));
    assert!(refused(&call(&mut connection, head, &GET)));
    assert_eq!(call(&mut connection, head, &Request::WhoIsLeader), Reply::Leader(None));
    let local = RequestHead { level: Some(Quorum::Count(1)), ..head };
    assert!(matches!(call(&mut connection, local, &GET), Reply::Value { .. }));
    // A version that this node does not have comes with the next leader, or not in time.
    let ahead = RequestHead { min_version: LogIndex(1000), timeout_ms: 50, ..local };
    let reply = call(&mut connection, ahead, &GET);
    assert!(matches!(reply, Reply::Error { code: ErrorCode::QuorumTimeout, .. }), "{reply:?}");
    let mut resp = Resp::connect(&cluster, left);
    assert!(resp.ask("SET k w").starts_with("-TRYAGAIN "));
    assert!(resp.ask("GET k").starts_with("-TRYAGAIN "));
    assert_eq!(resp.ask("READONLY"), "+OK");
    assert_eq!((resp.ask("GET k"), resp.line()), ("$1".into(), "v".into()));
    assert_eq!(resp.ask("READWRITE"), "+OK");
    assert!(resp.ask("GET k").starts_with("-TRYAGAIN "));
    assert_eq!(resp.ask("ROLE"), "*5");
}

/// What a request says of W and R beats what its connection has set.
#[test]
fn every_request_may_say_its_own_w_r_and_timeout() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    cluster.kill(cluster.followers()[0]);
    let mut connection = binary(&cluster, leader);
    let quorum = Request::Quorum { write: Some(Quorum::All), read: None };
    assert_eq!(call(&mut connection, RequestHead::default(), &quorum), Reply::Ok);
    let start = Instant::now();
    let all = RequestHead { timeout_ms: 100, ..RequestHead::default() };
    let reply = call(&mut connection, all, &SET);
    assert!(matches!(reply, Reply::Error { code: ErrorCode::QuorumTimeout, .. }), "{reply:?}");
    assert!(start.elapsed() >= Duration::from_millis(100));
    let two = RequestHead { level: Some(Quorum::Count(2)), ..RequestHead::default() };
    let reply = call(&mut connection, two, &SET);
    let Reply::Written { version } = reply else { panic!("{reply:?}") };
    let seen = RequestHead { min_version: version, level: Some(Quorum::Count(2)), ..all };
    assert!(matches!(call(&mut connection, seen, &GET), Reply::Value { .. }));
    let too_many = RequestHead { level: Some(Quorum::Count(4)), ..RequestHead::default() };
    for request in [&SET, &GET] {
        let reply = call(&mut connection, too_many, request);
        assert!(matches!(reply, Reply::Error { code: ErrorCode::BadRequest, .. }), "{reply:?}");
    }
}

#[test]
fn wait_counts_the_others_that_hold_the_last_write() {
    let cluster = Cluster::start_with(3, 1, &[]);
    let leader = cluster.leader();
    let mut resp = Resp::connect(&cluster, leader);
    assert_eq!(resp.ask("SET k v"), "+OK");
    assert_eq!(resp.ask("WAIT 3 0"), ":3");
    assert_eq!(resp.ask("WAIT 100 0"), ":3");
    let followers = cluster.followers();
    cluster.pause(followers[0]);
    assert_eq!(resp.ask("SET k w"), "+OK");
    assert_eq!(resp.ask("WAIT 2 0"), ":2");
    let start = Instant::now();
    assert_eq!(resp.ask("WAIT 3 100"), ":2");
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(resp.ask("WAITAOF 1 2 0"), "*2");
    assert_eq!((resp.line(), resp.line()), (":1".into(), ":2".into()));
    // It ends with the wait when the third has caught up.
    resp.0.send("WAIT 3 0");
    cluster.resume(followers[0]);
    assert_eq!(resp.line(), ":3");
    // Nobody is left to wait for, and then the leader leads nobody.
    followers.iter().for_each(|&id| cluster.pause(id));
    resp.0.send("WAIT 3 0");
    resp.0.send("SET k x");
    resp.0.send("WAIT 3 0");
    for _ in 0..3 {
        let reply = resp.line();
        let words = ["-UNBLOCKED ", "-INDOUBT ", "-TRYAGAIN ", ":3"];
        assert!(words.iter().any(|word| reply.starts_with(word)), "{reply}");
    }
    followers.iter().for_each(|&id| cluster.resume(id));
}

#[test]
fn leadership_goes_where_it_is_sent() {
    let mut cluster = Cluster::start_with(3, 1, &[]);
    let leader = cluster.leader();
    let to = cluster.followers()[0];
    let output = run(&cluster, &["transfer", "--to", &to.to_string()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let line = String::from_utf8(output.stdout).unwrap();
    assert!(line.starts_with(&format!("node {to} leads in term ")), "{line}");
    assert_eq!(cluster.leader(), to);
    for id in ["4", "9"] {
        let output = run(&cluster, &["transfer", "--to", id]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("BAD_REQUEST"), "{output:?}");
    }
    // To whoever is furthest.
    assert_eq!(run(&cluster, &["transfer"]).status.code(), Some(0));
    assert_ne!(cluster.leader(), to);
    assert_eq!(cluster.text(cluster.leader()).ask(&format!("TRANSFER {leader}")), "OK");
    until("it has moved", || (cluster.leader() == leader).then_some(()));
    // To a voter that is not there: as long as that is news, the leader tries in vain and goes on;
    // soon it knows better.
    cluster.kill(to);
    let transfer = Request::Transfer { to: Some(NodeId(u16::try_from(to).unwrap())) };
    let start = call(&mut binary(&cluster, leader), RequestHead::default(), &transfer);
    let is_silent = |reply: &Reply| match reply {
        Reply::Error { code, message } => {
            *code == ErrorCode::Busy && message.contains("does not answer")
        }
        _ => false,
    };
    assert!(start == Reply::Ok || is_silent(&start), "{start:?}");
    assert_eq!(cluster.text(leader).ask("SET k v"), "OK");
    let output = run(&cluster, &["transfer", "--to", &to.to_string(), "--timeout-ms", "1500"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let words = String::from_utf8(output.stderr).unwrap();
    let in_vain = format!("leadership has not moved in time: node {leader} leads in term ");
    assert!(words.contains(&in_vain) || words.contains("this voter does not answer"), "{words}");
    until("the leader has noticed", || {
        let reply = call(&mut binary(&cluster, leader), RequestHead::default(), &transfer);
        is_silent(&reply).then_some(())
    });
    assert_eq!(cluster.leader(), leader);
}

#[test]
fn the_commands_find_the_leader_past_dead_nodes_and_through_elections() {
    let mut cluster = Cluster::start(3);
    prints(&run(&cluster, &["set", "k", "1"]), "OK\n");
    for round in 2..5 {
        let leader = cluster.leader();
        cluster.kill(leader);
        // At once: there may be no leader yet, or its followers may still name the dead one.
        prints(&run(&cluster, &["set", "k", &round.to_string()]), "OK\n");
        prints(&run(&cluster, &["get", "k"]), &format!("{round}\n"));
        cluster.start_node(leader);
    }
    let follower = cluster.followers()[0];
    let only = cluster.address(follower).to_owned();
    let output = kvorum().args(["delete", "k", "--servers", &only]).output_in_time().unwrap();
    prints(&output, "OK\n");
    // With nobody to elect a leader the command gives up, and says what is true.
    let left = cluster.leader();
    for id in cluster.followers() {
        cluster.kill(id);
    }
    until("nobody leads", || (cluster.node(left).status("leader") == "none").then_some(()));
    let output = run(&cluster, &["set", "k", "never", "--timeout-ms", "500"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("kvorum: NO_LEADER ") && stderr.contains("not applied"), "{stderr}");
}

#[test]
fn status_shows_the_cluster_and_who_is_silent() {
    let mut cluster = Cluster::start_with(3, 1, &["--write-quorum", "1", "--fsync", "10"]);
    let leader = cluster.leader();
    cluster.wait_until_applied(&[1, 2, 3, 4]);
    let dead = cluster.followers()[0];
    cluster.kill(dead);
    let output = run(&cluster, &["status", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let nodes: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let of = |id: usize, name: &str| nodes[id - 1][name].clone();
    assert_eq!(of(leader, "role"), "leader");
    assert_eq!(of(4, "role"), "learner");
    assert!(of(dead, "error").is_string() && of(dead, "role").is_null());
    assert_eq!(of(leader, "voters"), "1,2,3");
    assert_eq!(of(leader, "learners"), 4);
    assert_eq!(of(leader, "relaxed"), "w,fsync");
    let peers = of(leader, "peers");
    let peers: Vec<&str> = peers.as_str().unwrap().split(',').collect();
    assert_eq!(peers.len(), 3);
    assert!(peers.iter().any(|peer| peer.starts_with("4:")), "{peers:?}");
    assert_eq!(of(4, "peers"), "");
    let mut resp = Resp::connect(&cluster, leader);
    resp.0.send("INFO replication");
    let info: Vec<String> =
        std::iter::from_fn(|| Some(resp.line()).filter(|line| !line.is_empty())).collect();
    assert!(info.iter().any(|line| line == "role:master"), "{info:?}");
    let log = cluster.terminate(leader).stderr;
    assert!(log.contains("relaxed: w=1") && log.contains("relaxed: fsync=10"), "{log}");
}
