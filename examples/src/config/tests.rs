//! Configurations that are taken, and those that are refused with a text that helps.

use super::*;

pub(super) const GOOD: &str = include_str!("../../node.toml");

pub(super) fn parse(text: &str) -> Result<Config, String> {
    let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
    config.check().map_err(|(key, problem)| format!("{key}: {problem}"))?;
    Ok(config)
}

#[test]
fn the_example_is_a_good_configuration() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.name(), NodeName::A);
    assert_eq!(config.arbitration(), Arbitration::Register);
    assert_eq!(config.volumes()[0].sectors, 64 << 21);
    assert!(config.volumes()[0].mirrored && config.volumes()[0].detect_zeros);
    assert_eq!((config.space(), config.volumes()[0].reserved_bytes), (SpaceConfig::default(), 0));
    let kept = parse(&GOOD.replace("detect_zeros = true", "reserved = \"10GiB\"")).unwrap();
    assert_eq!((kept.volumes()[0].reserved_bytes, kept.volumes()[1].reserved_bytes), (10 << 30, 0));
}

#[test]
fn both_nodes_give_a_mirrored_volume_one_identity() {
    let a = parse(GOOD).unwrap();
    let b = parse(&GOOD.replace("name = \"a\"", "name = \"b\"")).unwrap();
    assert_eq!(b.name(), NodeName::B);
    assert_eq!(a.partnership(), b.partnership());
    assert_eq!(a.volumes()[0].uuid, b.volumes()[0].uuid);
    assert_ne!(a.volumes()[0].uuid, a.volumes()[1].uuid);
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        ("name = \"a\"", "name = \"c\"", "unknown variant"),
        ("mirrored = true", "miror = true", "unknown field `miror`"),
        ("size = \"500GB\"", "size = \"500 gigs\"", "volume.size"),
        ("link = \"127.0.0.1:7260\"", "link = \"192.0.2.1:7260\"", "partner.link"),
        ("lun = 1", "lun = 16384", "mapping.lun"),
        ("read_only = true", "lun = 1", "mapping.lun: 1 is taken twice for \"esx1\""),
        ("read_only = true", "target = \"iqn.2026-01.example:other\"", "mapping.target"),
        ("iqns = [\"*\"]", "iqns = [\"iqn.1998-01.com.vmware:esx1-4f2a\"]", "leave it with one of them"),
        ("iqns = [\"*\"]", "iqns = [\"esx2\"]", "host.iqns"),
        ("# more_iqns = [\"iqn.2026-01.example.office:lab\"]", "more_iqns = [\"lab\"]", "target.iqn"),
        ("when_partner_full = \"refuse\"", "when_partner_full = \"panic\"", "unknown variant"),
        ("warning = 85", "warning = 75", "pool.thresholds"),
        ("critical = 95", "critical = 101", "pool.thresholds"),
        ("detect_zeros = true", "reserved = \"65GiB\"", "volume.reserved"),
        ("detect_zeros = true", "reserved = \"much\"", "volume.reserved"),
        ("id = 2", "id = 1", "volume.id"),
        ("extent = \"1MiB\"", "extent = \"3MiB\"", "pool.extent"),
        ("extent = \"1MiB\"", "log = \"5000\"", "pool.log"),
        ("extent = \"1MiB\"", "log = \"2GiB\"", "pool.log"),
        ("\nfile = ", "\npolicy = \"preferred\"\nfile = ", "arbiter.policy"),
        ("\nfile = \"register\"", "\n", "arbiter: says nothing"),
        ("\nfile = ", "\nwitness = \"192.0.2.3:7270\"\nfile = ", "a pair has one register"),
        ("\nfile = \"register\"", "\nwitness = \"192.0.2.3:7270\"", "arbiter.secret_file"),
        ("\nfile = \"register\"", "\nwitness = \"192.0.2.3\"\nsecret_file = \"x\"", "arbiter.witness"),
        ("\nfile = ", "\nsecret_file = \"x\"\nfile = ", "is for a `witness`"),
        ("iqns = [\"*\"]", "iqns = []", "host.iqns"),
        ("host = \"any\"", "host = \"none\"", "mapping.host"),
        ("iqn = \"iqn.2026", "iqn = \"2026", "target.iqn"),
        ("# initiator_sessions_max = 128", "initiator_sessions_max = 0", "target.initiator_sessions_max"),
        ("[[pool]]", "[[pool]]\nname = \"x\"\ndisks = []\n[[pool]]", "one pool for now"),
        ("lease_ms = 2000", "lease_ms = 500", "mirror.heartbeat_ms"),
    ];
    for (from, to, expected) in cases {
        assert!(GOOD.contains(from), "the example lost {from}");
        let error = parse(&GOOD.replacen(from, to, 1)).unwrap_err();
        assert!(error.contains(expected), "{to}: {error}");
    }
}

#[test]
fn a_witness_is_a_register() {
    for address in ["192.0.2.3:7270", "[2001:db8::3]:7270", "witness.example.office:7270"] {
        let named = format!("\nwitness = \"{address}\"\nsecret_file = \"witness.toml\"");
        let config = parse(&GOOD.replace("\nfile = \"register\"", &named)).unwrap();
        assert_eq!(config.arbitration(), Arbitration::Register);
        assert_eq!(config.arbiter.witness.as_deref(), Some(address));
    }
}

#[test]
fn a_volume_has_one_lun_for_all_unless_a_mapping_says_otherwise() {
    let config = parse(GOOD).unwrap();
    let luns: Vec<_> = config.mapping.iter().map(|mapping| config.lun(mapping)).collect();
    assert_eq!(luns, [Some(1), Some(2), Some(1)]);
    let access = config.access(|_| None);
    assert_eq!((access.hosts.len(), access.mappings.len()), (2, 0));
    let large = parse(&GOOD.replace("id = 2", "id = 70000")).unwrap_err();
    assert!(large.contains("LUNs are below 16384"), "{large}");
}

#[test]
fn mappings_find_volumes_by_the_pools_names_and_by_the_configurations() {
    let more = |text: &str| parse(&format!("{GOOD}\n[[mapping]]\nhost = \"any\"\n{text}\n"));
    let known = [(1, "mail"), (2, "vmfs-v2"), (1002, "monday"), (70_000, "large")];
    let known = known.map(|(id, name)| (VolumeId(id), name.to_owned()));
    let cases = [
        ("volume = \"monday\"", Ok((1002, Some(1002)))),
        ("volume = \"monday\"\nlun = 9", Ok((1002, Some(9)))),
        ("volume = \"mail\"\nlun = 9", Ok((1, Some(9)))),
        // Renamed, and still found.
        ("volume = \"vmfs-v1\"\nlun = 9", Ok((1, Some(9)))),
        ("volume = \"tuesday\"\nlun = 9", Err("`mapping.volume` \"tuesday\" is no [[volume]]")),
        ("volume = \"mail\"", Err("`mapping.lun` 1 is taken twice for \"any\"")),
        ("volume = \"large\"", Err("`mapping.lun` of \"large\" is too large")),
    ];
    for (text, expected) in cases {
        let mut config = more(text).unwrap();
        let problems = config.find_volumes(&known);
        let last = config.mapping.last().unwrap();
        match expected {
            Ok(found) => {
                assert!(problems.is_empty(), "{text}: {problems:?}");
                assert_eq!((last.found.unwrap().0, config.lun(last)), found, "{text}");
            }
            Err(problem) => {
                assert!(problems.len() == 1 && problems[0].to_string().contains(problem), "{problems:?}");
                assert_eq!(last.found, None, "{text}");
            }
        }
        let others = config.mapping.iter().take(3).map(|mapping| mapping.found.unwrap().0);
        assert_eq!(others.collect::<Vec<_>>(), [1, 2, 2], "the others are left alone");
    }
    let early = more("volume = \"monday\"\nlun = 1").unwrap_err();
    assert!(early.contains("mapping.lun: 1 is taken twice"), "{early}");
}
