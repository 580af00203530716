//! What is heard on the connections of a client: in the broker's or the TLS library's own words, and much earlier than the call that waits
//! for them times out with words that say nothing.
//!
//! Of several things the most telling counts, see [`Telling`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use tracing::debug;

use crate::engine::connectors::kafka::broker_error::{code_of, external, words_of};
use crate::engine::connectors::kafka::health::Health;
use crate::engine::error::Error;

/// Long enough to hand out everything that was said.
pub const HEARING: Duration = Duration::from_millis(20);
/// That all brokers are down counts after this time: a name may have further addresses, which are tried in turn.
const ADDRESSES_TRIED: Duration = Duration::from_secs(1);
/// For this long what was heard of a connection counts more than that another address, or the next attempt, found nobody.
const TELLING_FOR: Duration = Duration::from_secs(10);

/// Hears what happens on the connections of a client.
#[derive(Default)]
pub struct Listener {
    said: Mutex<Said>,
    /// Told of each record that arrived or did not.
    delivery: Option<Arc<dyn Delivery>>,
    /// Told how the brokers are.
    health: Option<Arc<Health>>,
}

#[derive(Default)]
struct Said {
    last: Option<Heard>,
    /// The next attempt will fare no better.
    hopeless: bool,
    all_down: bool,
}

/// How much something that was heard explains, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Telling {
    AllDown,
    /// Why one broker could not be reached.
    NotReached,
    /// What became of a connection.
    Ended,
    /// What is wrong with who came. The library tells it twice, once as any connection that ends.
    Refused,
}

struct Heard {
    code: RDKafkaErrorCode,
    reason: String,
    at: Instant,
}

impl Heard {
    fn now(code: RDKafkaErrorCode, reason: &str) -> Heard {
        Heard {
            code,
            reason: reason.to_owned(),
            at: Instant::now(),
        }
    }

    fn telling(&self) -> Telling {
        match self.code {
            RDKafkaErrorCode::AllBrokersDown => Telling::AllDown,
            RDKafkaErrorCode::SSL | RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed => {
                Telling::Refused
            }
            RDKafkaErrorCode::Resolve => Telling::NotReached,
            _ if self.reason.contains("Connect to ") => Telling::NotReached,
            _ => Telling::Ended,
        }
    }
}

impl Said {
    fn hear(&mut self, heard: Heard) {
        let says_less = |last: &Heard| match heard.telling() {
            Telling::AllDown => last.telling() > Telling::AllDown,
            telling => last.telling() > telling && heard.at - last.at < TELLING_FOR,
        };
        if !self.last.as_ref().is_some_and(says_less) {
            self.last = Some(heard);
        }
    }
}

/// What a producer's records come to.
pub trait Delivery: Send + Sync {
    fn delivered(&self, outcome: std::result::Result<(), KafkaError>);
}

impl Listener {
    pub fn of_deliveries(delivery: Arc<dyn Delivery>) -> Listener {
        Listener {
            said: Mutex::default(),
            delivery: Some(delivery),
            health: None,
        }
    }

    pub fn of_health(health: Arc<Health>) -> Listener {
        Listener {
            health: Some(health),
            ..Listener::default()
        }
    }

    /// Further waiting will not be answered either.
    pub fn is_hopeless(&self, waited: Duration) -> bool {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.hopeless || said.all_down && waited >= ADDRESSES_TRIED
    }

    /// An error with the words of the connection, where it said something that explains it.
    pub fn failed(&self, what: &str, error: &KafkaError) -> Error {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let code = code_of(error);
        let says_nothing = matches!(
            code,
            None | Some(
                RDKafkaErrorCode::OperationTimedOut
                    | RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::MessageTimedOut
            )
        );
        match &said.last {
            Some(heard) if says_nothing => external(what, Some(heard.code), &heard.reason),
            _ => external(what, code, &words_of(error)),
        }
    }
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!(facility, message, "librdkafka");
        // A connection that the broker ends is no error to the library; what is one comes to `error` as well.
        let no_error = (RDKafkaLogLevel::Warning as i32)..=(RDKafkaLogLevel::Info as i32);
        if facility == "FAIL" && no_error.contains(&(level as i32)) {
            let words = message.split_once("]: ").map_or(message, |(_thread, words)| words);
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            said.hear(Heard::now(RDKafkaErrorCode::BrokerTransportFailure, words));
        }
    }

    fn stats(&self, statistics: Statistics) {
        if let Some(health) = &self.health {
            let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            health.take(&statistics, said.last.as_ref().map(|heard| heard.reason.clone()));
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        debug!(%error, reason, "librdkafka");
        let code = match code_of(&error) {
            None | Some(RDKafkaErrorCode::PartitionEOF) => return,
            Some(code) => code,
        };
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.hopeless |= matches!(
            code,
            RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL | RDKafkaErrorCode::SaslAuthenticationFailed
        );
        said.all_down |= code == RDKafkaErrorCode::AllBrokersDown;
        said.hear(Heard::now(code, reason));
    }
}

impl ConsumerContext for Listener {}

impl rdkafka::producer::ProducerContext for Listener {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::producer::DeliveryResult<'_>, _opaque: ()) {
        if let Some(delivery) = &self.delivery {
            delivery.delivered(match result {
                Ok(_) => Ok(()),
                Err((error, _)) => Err(error.clone()),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last_of(all: Vec<Heard>) -> String {
        let mut said = Said::default();
        all.into_iter().for_each(|heard| said.hear(heard));
        said.last.map(|heard| heard.reason).unwrap_or_default()
    }

    fn ended() -> Heard {
        Heard::now(RDKafkaErrorCode::BrokerTransportFailure, "b:9092: Disconnected")
    }

    fn refused() -> Heard {
        let words = "b:9092: Connect to ipv6#[::1]:9092 failed: Connection refused";
        Heard::now(RDKafkaErrorCode::BrokerTransportFailure, words)
    }

    fn all_down() -> Heard {
        Heard::now(RDKafkaErrorCode::AllBrokersDown, "1/1 brokers are down")
    }

    #[test]
    fn what_says_most_is_kept_for_a_while() {
        assert_eq!(last_of(vec![ended(), refused(), all_down()]), ended().reason);
        assert_eq!(last_of(vec![refused(), ended()]), ended().reason);
        let untrusted = || Heard::now(RDKafkaErrorCode::SSL, "b:9092: certificate verify failed");
        assert_eq!(last_of(vec![ended(), untrusted(), ended()]), untrusted().reason);
        assert_eq!(last_of(vec![all_down(), refused(), all_down()]), refused().reason);
        let mut long_ago = ended();
        long_ago.at = Instant::now().checked_sub(TELLING_FOR).unwrap_or(long_ago.at);
        assert_eq!(last_of(vec![long_ago, refused()]), refused().reason);
    }
}
