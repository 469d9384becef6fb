//! Exchanges with initiators that know the secret, that do not, and that cheat.

use super::*;

const SECRET: &str = "the host's secret";
const OWN_SECRET: &str = "the target's secret";

fn credentials(name: &str, secret: &str) -> Credentials {
    Credentials { name: name.to_owned(), secret: Secret::new(secret).expect("long enough") }
}

/// An exchange, the rules, and what the target has said last.
struct Bench {
    exchange: Exchange,
    challenges: Challenges,
    algorithms: Vec<Algorithm>,
    said: Vec<(String, String)>,
}

impl Bench {
    fn new(subject: Subject) -> Bench {
        Bench {
            exchange: Exchange::new(subject),
            challenges: Challenges::new().expect("random bytes"),
            algorithms: Algorithm::ALL.to_vec(),
            said: Vec::new(),
        }
    }

    fn mutual() -> Bench {
        let target = Some(credentials("san", OWN_SECRET));
        Bench::new(Subject::host(&Chap { host: credentials("esx1", SECRET), target }))
    }

    fn one_way() -> Bench {
        Bench::new(Subject::host(&Chap { host: credentials("esx1", SECRET), target: None }))
    }

    fn say(&mut self, pairs: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut keys = Keys::default();
        for (key, value) in pairs {
            *keys.place(key).expect("a CHAP key") = Some((*value).to_owned());
        }
        let mut reply = Vec::new();
        let rules = Rules { algorithms: &self.algorithms, challenges: &self.challenges };
        let outcome = self.exchange.step(&keys, &rules, &mut reply);
        let pairs = text::pairs(&reply).map(|pair| pair.expect("well formed"));
        self.said = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        outcome
    }

    fn said(&self, key: &str) -> &str {
        &self.said.iter().find(|(said, _)| said == key).expect("said").1
    }

    /// The right answer to the target's challenge.
    fn response(&self, secret: &str) -> String {
        let number: u32 = self.said("CHAP_A").parse().expect("a number");
        let algorithm = Algorithm::ALL.into_iter().find(|a| a.number() == number).expect("known");
        let id = self.said("CHAP_I").parse().expect("a number");
        let challenge = decode(self.said("CHAP_C"), 1024).expect("binary");
        encode(&algorithm.response(id, &Secret::new(secret).expect("long enough"), &challenge))
    }
}

#[test]
fn the_strongest_algorithm_that_both_know_is_taken() {
    for (offered, allowed, taken) in [
        ("5", &Algorithm::ALL[..], Some("5")),
        ("5,6,7,8", &Algorithm::ALL[..], Some("8")),
        ("5,7", &Algorithm::ALL[..], Some("7")),
        ("5,7", &[Algorithm::Md5][..], Some("5")),
        ("0x8,5", &Algorithm::ALL[..], Some("8")),
        ("5", &[Algorithm::Sha3_256, Algorithm::Sha256][..], None),
        ("6", &Algorithm::ALL[..], None),
        ("", &Algorithm::ALL[..], None),
        ("MD5,,-1,4294967301", &Algorithm::ALL[..], None),
    ] {
        let mut bench = Bench::one_way();
        bench.algorithms = allowed.to_vec();
        let outcome = bench.say(&[("CHAP_A", offered)]);
        assert_eq!(outcome.ok().map(|()| bench.said("CHAP_A")), taken, "{offered}");
    }
}

#[test]
fn whoever_knows_name_and_secret_is_let_in() {
    for offered in ["8", "7", "5"] {
        let mut bench = Bench::one_way();
        assert_eq!(bench.say(&[("CHAP_A", offered)]), Ok(()));
        assert!(!bench.exchange.is_done());
        let response = bench.response(SECRET);
        assert_eq!(bench.say(&[("CHAP_N", "esx1"), ("CHAP_R", &response)]), Ok(()));
        assert!(bench.exchange.is_done() && bench.said.is_empty());
    }
}

#[test]
fn all_others_get_one_answer() {
    let wrong = |subject: Subject, name: &str, secret: &str| {
        let mut bench = Bench::new(subject);
        assert_eq!(bench.say(&[("CHAP_A", "8")]), Ok(()));
        let response = bench.response(secret);
        let outcome =
            bench.say(&[("CHAP_N", name), ("CHAP_R", &response), ("CHAP_I", "1"), ("CHAP_C", "0x01")]);
        (outcome, bench.said)
    };
    let refused = (Err(Refusal::Unproved), Vec::new());
    let host = || Subject::host(&Chap { host: credentials("esx1", SECRET), target: None });
    assert_eq!(wrong(host(), "esx1", "another secret"), refused);
    assert_eq!(wrong(host(), "esx2", SECRET), refused);
    let secret = Secret::random().expect("random bytes");
    assert_eq!(wrong(Subject::nobody(&secret), "", SECRET), refused);
    // Not even with what nobody knows.
    let known = Secret::new(SECRET).expect("long enough");
    assert_eq!(wrong(Subject::nobody(&known), "", SECRET), refused);
}

#[test]
fn the_target_shows_who_it_is_when_asked() {
    let mut bench = Bench::mutual();
    assert_eq!(bench.say(&[("CHAP_A", "7")]), Ok(()));
    let response = bench.response(SECRET);
    let keys = [("CHAP_N", "esx1"), ("CHAP_R", &response), ("CHAP_I", "200"), ("CHAP_C", "0bAQID")];
    assert_eq!(bench.say(&keys), Ok(()));
    let own = Secret::new(OWN_SECRET).expect("long enough");
    assert_eq!(bench.said("CHAP_N"), "san");
    assert_eq!(bench.said("CHAP_R"), encode(&Algorithm::Sha256.response(200, &own, &[1, 2, 3])));
}

#[test]
fn the_target_answers_no_challenge_before_its_own_is_answered() {
    let mut bench = Bench::mutual();
    assert_eq!(bench.say(&[("CHAP_A", "8"), ("CHAP_I", "1"), ("CHAP_C", "0x01")]), Err(Refusal::Unproved));
    assert!(bench.said.is_empty());
    let mut bench = Bench::mutual();
    assert_eq!(bench.say(&[("CHAP_A", "8")]), Ok(()));
    let keys = [("CHAP_N", "esx1"), ("CHAP_R", "0x00"), ("CHAP_I", "1"), ("CHAP_C", "0x01")];
    assert_eq!(bench.say(&keys), Err(Refusal::Unproved));
    assert!(bench.said.is_empty());
}

/// Of this login or of another connection, in either encoding.
#[test]
fn a_challenge_of_the_targets_own_is_not_answered() {
    for of_another in [false, true] {
        let mut bench = Bench::mutual();
        assert_eq!(bench.say(&[("CHAP_A", "8")]), Ok(()));
        let response = bench.response(SECRET);
        let mut own = bench.said("CHAP_C").to_uppercase();
        if of_another {
            own = encode(&bench.challenges.fresh().expect("random bytes").bytes);
        }
        let keys = [("CHAP_N", "esx1"), ("CHAP_R", &response), ("CHAP_I", "1"), ("CHAP_C", &own)];
        assert_eq!(bench.say(&keys), Err(Refusal::Unproved));
        assert!(bench.said.is_empty());
    }
}

#[test]
fn a_proof_is_asked_once_and_given_once() {
    let mut bench = Bench::one_way();
    assert_eq!(bench.say(&[]), Ok(()), "nothing yet");
    assert_eq!(bench.say(&[("CHAP_A", "8")]), Ok(()));
    let response = bench.response(SECRET);
    assert_eq!(bench.say(&[]), Ok(()), "still nothing");
    let right = [("CHAP_N", "esx1"), ("CHAP_R", response.as_str())];
    assert_eq!(bench.say(&right), Ok(()));
    assert_eq!(bench.say(&right), Err(Refusal::Unproved));
    assert!(!bench.exchange.is_done());
    // A wrong answer spoils the challenge.
    let mut bench = Bench::one_way();
    assert_eq!(bench.say(&[("CHAP_A", "8")]), Ok(()));
    let response = bench.response(SECRET);
    assert_eq!(bench.say(&[("CHAP_N", "esx1"), ("CHAP_R", "0x00")]), Err(Refusal::Unproved));
    assert_eq!(bench.say(&[("CHAP_N", "esx1"), ("CHAP_R", &response)]), Err(Refusal::Unproved));
    assert!(!bench.exchange.is_done());
}

#[test]
fn malformed_and_missing_values_are_refused() {
    let long = format!("0x{}", "ab".repeat(1025));
    let wide = format!("0x{}", "ab".repeat(33));
    let cases: [&[(&str, &str)]; 12] = [
        &[("CHAP_N", "esx1")],
        &[("CHAP_R", "right")],
        &[("CHAP_N", "esx1"), ("CHAP_R", "")],
        &[("CHAP_N", "esx1"), ("CHAP_R", "0x")],
        &[("CHAP_N", "esx1"), ("CHAP_R", &wide)],
        &[("CHAP_N", ""), ("CHAP_R", "right")],
        &[("CHAP_N", "esx1"), ("CHAP_R", "right"), ("CHAP_I", "1")],
        &[("CHAP_N", "esx1"), ("CHAP_R", "right"), ("CHAP_C", "0x01")],
        &[("CHAP_N", "esx1"), ("CHAP_R", "right"), ("CHAP_I", "256"), ("CHAP_C", "0x01")],
        &[("CHAP_N", "esx1"), ("CHAP_R", "right"), ("CHAP_I", "1"), ("CHAP_C", "0x")],
        &[("CHAP_N", "esx1"), ("CHAP_R", "right"), ("CHAP_I", "1"), ("CHAP_C", &long)],
        &[("CHAP_N", "esx1"), ("CHAP_R", "right"), ("CHAP_I", "1"), ("CHAP_C", "0x01"), ("CHAP_A", "8")],
    ];
    for case in cases {
        let mut bench = Bench::mutual();
        assert_eq!(bench.say(&[("CHAP_A", "8")]), Ok(()));
        let right = bench.response(SECRET);
        let put_right = |(key, value): &(&'static str, &str)| (*key, value.replace("right", &right));
        let case: Vec<(&str, String)> = case.iter().map(put_right).collect();
        let keys: Vec<(&str, &str)> = case.iter().map(|(key, value)| (*key, value.as_str())).collect();
        assert_eq!(bench.say(&keys), Err(Refusal::Unproved), "{keys:?}");
        assert!(bench.said.is_empty());
    }
    let mut bench = Bench::one_way();
    assert_eq!(bench.say(&[("CHAP_A", "8")]), Ok(()));
    let response = bench.response(SECRET);
    let asks = [("CHAP_N", "esx1"), ("CHAP_R", &response), ("CHAP_I", "1"), ("CHAP_C", "0x01")];
    assert_eq!(bench.say(&asks), Err(Refusal::Unproved), "the target has no secret to show this host");
}
