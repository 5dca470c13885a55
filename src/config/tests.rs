use super::*;

fn low(flags: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<LowConfig, ConfigError> {
    use clap::Parser;
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeFlags,
    }
    let flags = flags.iter().map(|(name, value)| format!("--{name}={value}"));
    let line = Line::parse_from(std::iter::once("serve".to_owned()).chain(flags));
    LowConfig::gather(
        &line.serve,
        environment.iter().map(|(name, value)| (name.into(), value.into())),
    )
}

fn config(flags: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::new(&low(flags, &[])?)
}

fn refusal(flags: &[(&str, &str)]) -> String {
    let line = config(flags).expect_err("must be refused").to_string();
    assert!(!line.contains('\n'), "{line}");
    line
}

/// A file that is gone when this is dropped.
fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn refusal_of_file(text: &str) -> String {
    let file = file(text);
    let path = file.path().to_str().unwrap();
    let line = refusal(&[("config", path)]);
    line.strip_prefix(path).expect("names the file").to_owned()
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let expected = Config {
        id: NodeId(1),
        data: "kvorum-data".into(),
        listen: None,
        peer_listen: None,
        cluster_secret_file: None,
        repair_from_peers: false,
        trace_peers: false,
        members: None,
        join: Vec::new(),
        write_quorum: Quorum::Majority,
        read_quorum: Quorum::Majority,
        quorum_timeout_ms: 5000,
        fsync: Fsync::Always,
        heartbeat_ms: 50,
        election_timeout_ms: 300,
        limits: Limits { key_bytes_max: 65_535, value_bytes_max: 8_388_608 },
        connections_max: 10_000,
        memory_bytes_max: None,
        snapshot_log_percent: 100,
        snapshot_log_bytes_min: 128 << 20,
    };
    assert_eq!(config(&[]).unwrap(), expected);
}

#[test]
fn a_flag_beats_the_environment_and_the_environment_beats_the_file() {
    let file = file("id = 3\nlisten = 'a:1'\ndata = 'from-file'\nfsync = 10\n");
    let path = file.path().to_str().unwrap();
    let low = low(
        &[("listen", "c:3")],
        &[("KVORUM_CONFIG", path), ("KVORUM_LISTEN", "b:2"), ("KVORUM_DATA", "from-environment")],
    );
    let config = Config::new(&low.unwrap()).unwrap();
    assert_eq!(config.listen.as_deref(), Some("c:3"));
    assert_eq!(config.data, PathBuf::from("from-environment"));
    assert_eq!(config.id, NodeId(3));
    assert_eq!(config.fsync, Fsync::EveryMs(10));
}

#[test]
fn a_list_comes_as_flags_as_an_array_or_with_commas() {
    let [one, two] = ["1=a:1/a:2", "2=b:1/b:2"];
    let from_flags = config(&[("member", two), ("member", one)]).unwrap();
    let file = file(&format!("member = ['{one}', '{two}']"));
    let from_file = config(&[("config", file.path().to_str().unwrap())]).unwrap();
    let variable = format!("{one}, {two}");
    let from_variable = Config::new(&low(&[], &[("KVORUM_MEMBER", &variable)]).unwrap()).unwrap();
    assert_eq!(from_flags, from_file);
    assert_eq!(from_flags, from_variable);
    assert_eq!(
        from_flags.members.iter().flat_map(MemberList::voters).map(|m| m.id.0).collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(from_flags.listen, None, "the member list says where");
    assert_eq!(from_flags.peer_listen.as_deref(), Some("a:2"));
}

#[test]
fn a_switch_needs_no_value_and_the_file_may_spell_it_as_a_boolean() {
    let traces = |low: LowConfig| Config::new(&low).unwrap().trace_peers;
    assert!(!traces(low(&[], &[]).unwrap()));
    assert!(traces(low(&[("trace-peers", "true")], &[]).unwrap()));
    assert!(!traces(low(&[("trace-peers", "false")], &[("KVORUM_TRACE_PEERS", "true")]).unwrap()));
    let file = file("trace_peers = true\ncluster_secret_file = 'secret'\n");
    let config = config(&[("config", file.path().to_str().unwrap())]).unwrap();
    assert!(config.trace_peers);
    assert_eq!(config.cluster_secret_file, Some("secret".into()));
    let line = refusal(&[("trace-peers", "maybe")]);
    assert_eq!(line, "--trace-peers: 'maybe' is not 'true' or 'false'");
}

#[test]
fn sizes_have_units() {
    for (word, bytes) in [
        ("1", 1),
        ("512mb", 512 << 20),
        ("4GiB", 4 << 30),
        ("4gb", 4 << 30),
        ("2k", 2000),
        ("2KB", 2048),
    ] {
        assert_eq!(config(&[("memory-max", word)]).unwrap().memory_bytes_max, Some(bytes));
    }
    for word in ["", "0", "mb", "-1", "1.5gb", "4tb", "99999999999gb", "1 mb"] {
        let line = refusal(&[("memory-max", word)]);
        assert!(line.starts_with("--memory-max: '"), "{line}");
    }
}

#[test]
fn wrong_values_name_the_flag_and_what_is_accepted() {
    for (flag, word) in [
        ("id", "0"),
        ("id", "65536"),
        ("id", "one"),
        ("data", ""),
        ("listen", "6379"),
        ("listen", "::1:6379"),
        ("listen", "[::1]"),
        ("listen", "localhost:99999"),
        ("listen", ":6379"),
        ("listen", "a b:1"),
        ("peer-listen", "x"),
        ("member", "1=a:1"),
        ("member", "1=a:0/a:2"),
        ("member", "0=a:1/a:2"),
        ("member", ""),
        ("write-quorum", "0"),
        ("write-quorum", "most"),
        ("read-quorum", "all"),
        ("quorum-timeout-ms", "0"),
        ("fsync", "0"),
        ("fsync", "sometimes"),
        ("heartbeat-ms", "-1"),
        ("election-timeout-ms", "1.5"),
        ("key-bytes-max", "65536"),
        ("value-bytes-max", "65mb"),
        ("connections-max", "0"),
    ] {
        let line = refusal(&[(flag, word)]);
        assert!(line.starts_with(&format!("--{flag}: '{word}' is not ")), "{line}");
    }
}

#[test]
fn wrong_values_name_the_variable() {
    let low = low(&[], &[("KVORUM_FSYNC", "maybe")]).unwrap();
    let line = Config::new(&low).unwrap_err().to_string();
    assert_eq!(
        line,
        "environment variable KVORUM_FSYNC: 'maybe' is not 'always', 'never' or a number of \
         milliseconds from 1"
    );
}

#[test]
fn wrong_files_name_the_line() {
    for (text, expected) in [
        ("\nlisten = 'a:1'\nlissen = 'b:2'", ":3: lissen is not a setting: is it listen?"),
        (
            "quorum-timeout-ms = 1",
            ":1: quorum-timeout-ms is not a setting: is it quorum_timeout_ms?",
        ),
        ("\"a\\nb\" = 1", ":1: a\\nb is not a setting: 'kvorum serve --help' lists them"),
        ("zzz = 1", ":1: zzz is not a setting: 'kvorum serve --help' lists them"),
        ("# x\nid = true", ":2: id: 'true' is not a text or a whole number"),
        ("member = [1]", ":1: member: '[1]' is not an array of texts"),
        ("id = 0", ":1: id: '0' is not a node id, a number from 1 to 65535"),
        ("id = [1]", ":1: id: '[1]' is not a text or a whole number"),
    ] {
        assert_eq!(refusal_of_file(text), expected);
    }
    let line = refusal_of_file("id = 1\nlisten = \n");
    assert!(line.starts_with(":2: not TOML: "), "{line}");
    let line = refusal_of_file("[serve]\nid = 1\n");
    assert!(line.starts_with(":1: serve is not a setting"), "{line}");
    let line = refusal(&[("config", "does/not/exist.toml")]);
    assert!(line.starts_with("does/not/exist.toml: can not read"), "{line}");
}

#[test]
fn unknown_variables_are_refused_unless_an_orchestrator_made_them() {
    for (name, value, expected) in [
        ("KVORUM_LISSEN", "a:1", "is it KVORUM_LISTEN?"),
        ("KVORUM_PORT", "6379", "is not a setting"),
        ("KVORUM_listen", "a:1", "is it KVORUM_LISTEN?"),
    ] {
        let line = low(&[], &[(name, value)]).unwrap_err().to_string();
        assert!(line.contains(name) && line.contains(expected), "{line}");
    }
    let service_links = [
        ("KVORUM_SERVICE_HOST", "10.0.0.1"),
        ("KVORUM_SERVICE_PORT", "6379"),
        ("KVORUM_SERVICE_PORT_CLIENT", "6379"),
        ("KVORUM_PORT", "tcp://10.0.0.1:6379"),
        ("KVORUM_PORT_6379_TCP", "tcp://10.0.0.1:6379"),
        ("KVORUM_PORT_6379_TCP_ADDR", "10.0.0.1"),
        ("KVORUM_SERVERS", "a:1"),
        ("KVORUM_ID", ""),
    ];
    assert!(low(&[], &service_links).is_ok());
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    let [one, two, three] =
        [("member", "1=a:1/a:2"), ("member", "2=b:1/b:2"), ("member", "3=c:1/c:2")];
    for (flags, expected) in [
        (vec![("id", "4"), one, two], "--member: no member or learner has this node's id 4"),
        (vec![one, ("member", "1=b:1/b:2")], "--member: member 1 is named twice"),
        (vec![one, ("learner", "1=b:1/b:2")], "--member: member 1 is named twice"),
        (vec![one, ("member", "2=a:1/b:2")], "--member: a:1 is listed twice"),
        (vec![one, ("member", "2=b:1/a:2")], "--member: member 2 has the peer address of another"),
        (vec![("member", "1=a:1/a:1")], "--member: a:1 is listed twice"),
        (vec![("learner", "1=a:1/a:2")], "--learner: learners need the voters too"),
        (
            vec![one, two, three, ("write-quorum", "4")],
            "--write-quorum: write_quorum 4 is more than the 3",
        ),
        (
            vec![one, ("read-quorum", "2")],
            "--read-quorum: read_quorum 2 is more than the 1 voter there is",
        ),
        (vec![one, ("join", "b:1")], "--join: the cluster tells"),
        (vec![("heartbeat-ms", "300")], "--heartbeat-ms: a heartbeat every 300 ms"),
        (vec![("election-timeout-ms", "50")], "--election-timeout-ms: a heartbeat every 50 ms"),
        (vec![one, ("peer-listen", "a:1")], "--peer-listen: a:1 can not serve both"),
    ] {
        let line = refusal(&flags);
        assert!(line.starts_with(expected), "{line}");
    }
    let file = file("member = []\nlearner = []");
    assert_eq!(config(&[("config", file.path().to_str().unwrap())]).unwrap().voter_count(), 1);
    let many: Vec<String> = (1..=64).map(|id| format!("{id}=a:{id}/b:{id}")).collect();
    let line = refusal(&[("member", &many.join(","))]);
    assert!(line.contains("1 to 63 voters, not 64"), "{line}");
}

#[test]
fn a_learner_finds_its_own_addresses() {
    let flags = [("id", "2"), ("member", "1=a:1/a:2"), ("learner", "2=[::1]:1/b.example:2")];
    let config = config(&flags).unwrap();
    assert_eq!(config.listen, None, "the member list says where");
    assert_eq!(config.peer_listen.as_deref(), Some("b.example:2"));
    assert_eq!(config.voter_count(), 1);
}

proptest::proptest! {
    /// Whatever a file holds, it is accepted or refused in one line.
    #[test]
    fn no_file_is_too_strange(
        pieces in proptest::collection::vec(
            proptest::sample::select(vec![
                "id", "listen", "member", "fsync", " = ", "=", "1", "'a:1'", "\"", "[", "]", "{",
                "}", "\n", "\r\n", ",", "#", "é", "\0", "0x7f", "1.5", "true", "'''", "\\", ".",
            ]),
            0..24,
        ),
        noise in ".{0,16}",
    ) {
        let text = pieces.concat() + &noise;
        let file = file(&text);
        if let Err(error) = config(&[("config", file.path().to_str().unwrap())]) {
            let line = error.to_string();
            proptest::prop_assert!(!line.contains(['\n', '\r']), "{}", line);
        }
    }
}
