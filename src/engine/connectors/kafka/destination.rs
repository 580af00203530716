//! Where a sink writes: a topic of a connection, made when that is asked for.

use std::sync::Arc;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::Metadata;

use crate::engine::connectors::Result;
use crate::engine::connectors::kafka::broker_error::{external, words_of_code};
use crate::engine::connectors::kafka::client::{ASK_TIMEOUT, Connection};
use crate::engine::connectors::kafka::options::SinkOptions;
use crate::engine::connectors::kafka::partitions::partitions_of;
use crate::engine::error::Error;
use crate::error::{Report, SqlState};

/// Brokers know of a new topic one after the other.
const CREATED_WITHIN: std::time::Duration = std::time::Duration::from_secs(15);

#[derive(Clone, Debug)]
pub struct Destination {
    pub connection: Connection,
    pub topic: String,
    pub options: Arc<SinkOptions>,
}

impl Destination {
    pub fn producer_properties(&self) -> Vec<(&'static str, String)> {
        vec![
            ("enable.idempotence", "true".into()),
            ("partitioner", self.options.partitioner.into()),
            ("compression.codec", self.options.compression.into()),
            ("queue.buffering.max.kbytes", "65536".into()),
            ("linger.ms", "5".into()),
        ]
    }

    /// Makes sure that the topic is there, as far as the options allow. Blocks.
    pub fn ensure_topic(&self) -> Result<()> {
        match self.look() {
            Err(error) if self.options.create_topic.is_some() && error.code() == SqlState::UNDEFINED_TABLE => {
                self.create()?;
                let deadline = std::time::Instant::now() + CREATED_WITHIN;
                loop {
                    match self.look() {
                        Err(error)
                            if error.code() == SqlState::UNDEFINED_TABLE && std::time::Instant::now() < deadline =>
                        {
                            std::thread::sleep(std::time::Duration::from_millis(50));
                        }
                        outcome => return outcome,
                    }
                }
            }
            outcome => outcome,
        }
    }

    fn look(&self) -> Result<()> {
        let metadata: Metadata = self.connection.check(Some(&self.topic))?;
        partitions_of(&metadata, &self.topic).map(|_| ())
    }

    fn create(&self) -> Result<()> {
        let Some(wanted) = self.options.create_topic else {
            return Ok(());
        };
        let what = format!("could not create topic \"{}\"", self.topic);
        let failed = |code: Option<RDKafkaErrorCode>, words: &str| external(&what, code, words);
        let admin: AdminClient<DefaultClientContext> = AdminClient::from_config(&self.connection.configuration(&[]))
            .map_err(|error| failed(None, &error.to_string()))?;
        let replication = TopicReplication::Fixed(wanted.replicas);
        let topic = NewTopic::new(&self.topic, wanted.partitions, replication);
        let options = AdminOptions::new()
            .operation_timeout(Some(ASK_TIMEOUT))
            .request_timeout(Some(ASK_TIMEOUT));
        let created = futures::executor::block_on(admin.create_topics([&topic], &options));
        let outcomes = created.map_err(|error| failed(error.rdkafka_error_code(), &error.to_string()))?;
        for outcome in outcomes {
            match outcome {
                // Somebody else was quicker.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((_, code)) => {
                    return Err(Error::External {
                        code: SqlState::SYSTEM_ERROR,
                        message: format!("{what}: {}", words_of_code(code)),
                        hint: Some("Look at sink.partitions and sink.replication_factor.".into()),
                        retry: crate::error::Retry::Never,
                    });
                }
            }
        }
        Ok(())
    }
}
