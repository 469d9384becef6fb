//! Operational keys (RFC 7143 section 13): what each side may offer and what comes of it.

use crate::pdu::text;

/// The longest data segment this target takes.
pub(crate) const RECEIVE_BYTES_MAX: u32 = 256 << 10;
/// The longest data segment before the initiator was told otherwise (RFC 7143 13.12).
pub(crate) const RECEIVE_BYTES_DEFAULT: u32 = 8192;
const BURST_BYTES_MAX: u32 = 1 << 20;
const FIRST_BURST_BYTES_MAX: u32 = 256 << 10;
const WAIT_SECONDS: u32 = 2;

/// What was negotiated. `default` is what holds when a key is never mentioned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Params {
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
    pub(crate) initial_r2t: bool,
    pub(crate) immediate_data: bool,
    /// The longest data segment that the initiator takes.
    pub(crate) send_bytes_max: u32,
    /// The longest data segment that this target takes.
    pub(crate) receive_bytes_max: u32,
    pub(crate) max_burst: u32,
    pub(crate) first_burst: u32,
}

impl Default for Params {
    fn default() -> Params {
        Params {
            header_digest: false,
            data_digest: false,
            initial_r2t: true,
            immediate_data: true,
            send_bytes_max: RECEIVE_BYTES_DEFAULT,
            receive_bytes_max: RECEIVE_BYTES_DEFAULT,
            max_burst: 256 << 10,
            first_burst: 64 << 10,
        }
    }
}

/// The answer to a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// A declaration: no answer.
    Silent,
    /// This value.
    Value(String),
    /// The value is not one that the key can have.
    Reject,
    /// Not a key that this target knows.
    Unknown,
}

impl Answer {
    fn from_option(value: Option<String>) -> Answer {
        value.map_or(Answer::Reject, Answer::Value)
    }
}

impl Params {
    /// Takes an offer of the initiator and answers it.
    pub(crate) fn offer(&mut self, key: &str, value: &str, discovery: bool) -> Answer {
        let session_only = matches!(
            key,
            "InitialR2T"
                | "ImmediateData"
                | "MaxBurstLength"
                | "FirstBurstLength"
                | "MaxOutstandingR2T"
                | "DataPDUInOrder"
                | "DataSequenceInOrder"
                | "MaxConnections"
        );
        if discovery && session_only {
            return Answer::Value("Irrelevant".to_owned());
        }
        match key {
            "HeaderDigest" => digest(value, &mut self.header_digest),
            "DataDigest" => digest(value, &mut self.data_digest),
            "InitialR2T" => boolean(value, |offer| offer, &mut self.initial_r2t),
            "ImmediateData" => boolean(value, |offer| offer, &mut self.immediate_data),
            "DataPDUInOrder" | "DataSequenceInOrder" => boolean(value, |_| true, &mut false),
            "MaxRecvDataSegmentLength" => match numerical(value, 512, 0xff_ffff) {
                Some(bytes) => {
                    self.send_bytes_max = bytes;
                    Answer::Silent
                }
                None => Answer::Reject,
            },
            "MaxBurstLength" => least(value, BURST_BYTES_MAX, &mut self.max_burst),
            "FirstBurstLength" => least(value, FIRST_BURST_BYTES_MAX, &mut self.first_burst),
            _ => fixed(key, value),
        }
    }

    /// FirstBurstLength never exceeds MaxBurstLength (RFC 7143 13.14).
    pub(crate) fn settle(&mut self) {
        self.first_burst = self.first_burst.min(self.max_burst);
    }
}

/// Keys whose outcome changes nothing here.
fn fixed(key: &str, value: &str) -> Answer {
    let number = |low, high, result: fn(u32) -> u32| {
        Answer::from_option(numerical(value, low, high).map(|offer| result(offer).to_string()))
    };
    match key {
        "MaxConnections" => number(1, 65_535, |_| 1),
        "MaxOutstandingR2T" => number(1, 65_535, |_| 1),
        "ErrorRecoveryLevel" => number(0, 2, |_| 0),
        "DefaultTime2Wait" => number(0, 3600, |offer| offer.max(WAIT_SECONDS)),
        "DefaultTime2Retain" => number(0, 3600, |_| 0),
        "iSCSIProtocolLevel" => number(0, 31, |offer| offer.min(1)),
        "IFMarker" | "OFMarker" => Answer::Value("No".to_owned()),
        "IFMarkInt" | "OFMarkInt" => Answer::Reject,
        "TaskReporting" => {
            let known = value.split(',').any(|way| way == "RFC3720");
            Answer::from_option(known.then(|| "RFC3720".to_owned()))
        }
        "InitiatorName" | "InitiatorAlias" | "TargetName" | "SessionType" | "TargetAddress" => Answer::Silent,
        _ => Answer::Unknown,
    }
}

/// The first of the list that is known here.
fn digest(value: &str, result: &mut bool) -> Answer {
    let chosen = value.split(',').find(|name| matches!(*name, "CRC32C" | "None"));
    *result = chosen == Some("CRC32C");
    Answer::from_option(chosen.map(str::to_owned))
}

fn boolean(value: &str, outcome: fn(bool) -> bool, result: &mut bool) -> Answer {
    let offer = match value {
        "Yes" => true,
        "No" => false,
        _ => return Answer::Reject,
    };
    *result = outcome(offer);
    Answer::Value(if *result { "Yes" } else { "No" }.to_owned())
}

fn numerical(value: &str, low: u32, high: u32) -> Option<u32> {
    text::number(value).filter(|number| (low..=high).contains(number))
}

fn least(value: &str, own: u32, result: &mut u32) -> Answer {
    let Some(offer) = numerical(value, 512, 0xff_ffff) else { return Answer::Reject };
    *result = offer.min(own);
    Answer::Value(result.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Answer {
        Answer::Value(text.to_owned())
    }

    #[test]
    fn each_key_has_its_rule() {
        let mut params = Params::default();
        assert_eq!(params.offer("DataDigest", "None,CRC32C", false), value("None"));
        assert_eq!(params.offer("InitialR2T", "No", false), value("No"));
        assert_eq!(params.offer("ImmediateData", "No", false), value("No"));
        assert_eq!(params.offer("MaxBurstLength", "16776192", false), value("1048576"));
        assert_eq!(params.offer("FirstBurstLength", "512", false), value("512"));
        assert_eq!(params.offer("MaxRecvDataSegmentLength", "0x10000", false), Answer::Silent);
        assert_eq!(params.offer("DataPDUInOrder", "No", false), value("Yes"));
        assert_eq!(params.offer("DefaultTime2Wait", "0", false), value("2"));
        assert_eq!(params.offer("MaxConnections", "8", false), value("1"));
        assert_eq!(params.offer("MaxConnections", "0", false), Answer::Reject);
        assert_eq!(params.offer("MaxBurstLength", "511", false), Answer::Reject);
        assert_eq!(params.offer("HeaderDigest", "Y", false), Answer::Reject);
        assert_eq!(params.offer("HeaderDigest", "X,CRC32C,None", false), value("CRC32C"));
        assert_eq!(params.offer("X-com.example", "1", false), Answer::Unknown);
        assert_eq!(params.offer("MaxBurstLength", "8192", true), value("Irrelevant"));
        for (key, offer, answer) in [
            ("MaxOutstandingR2T", "16", value("1")),
            ("DataSequenceInOrder", "No", value("Yes")),
            ("DefaultTime2Retain", "20", value("0")),
            ("ErrorRecoveryLevel", "2", value("0")),
            ("ErrorRecoveryLevel", "3", Answer::Reject),
            ("TaskReporting", "FastAbort,ResponseFence,RFC3720", value("RFC3720")),
            ("TaskReporting", "FastAbort", Answer::Reject),
            ("iSCSIProtocolLevel", "2", value("1")),
            ("OFMarker", "Yes", value("No")),
            ("IFMarkInt", "2048~8192", Answer::Reject),
            ("InitiatorAlias", "x", Answer::Silent),
            ("RDMAExtensions", "Yes", Answer::Unknown),
        ] {
            assert_eq!(params.offer(key, offer, false), answer, "{key}={offer}");
        }
        assert!(params.header_digest && !params.data_digest && !params.initial_r2t && !params.immediate_data);
        assert_eq!((params.send_bytes_max, params.max_burst, params.first_burst), (65_536, 1 << 20, 512));
    }

    #[test]
    fn the_first_burst_never_exceeds_the_burst() {
        let mut params = Params::default();
        params.offer("MaxBurstLength", "4096", false);
        params.settle();
        assert_eq!(params.first_burst, 4096);
    }
}
