//! From connecting to ready, and being sent away.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::fake::Fake;
use super::raw::{RawClient, frame, query, startup};
use super::{any_port, becomes, start, start_with};
use crate::config::TlsFiles;
use crate::error::SqlState;
use crate::frontend::pgwire::auth::build_verifier;
use crate::frontend::pgwire::cancel::Backends;
use crate::frontend::pgwire::listener::{PgConfig, PgListener};

const VERSION_3_0: i32 = 196_608;
const VERSION_3_2: i32 = 196_610;
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30];

#[tokio::test]
async fn a_login_gets_settings_key_and_ready() {
    let server = start().await;
    let mut client = RawClient::connect(server.address).await;
    client
        .send(&startup(
            VERSION_3_0,
            &[("user", "u"), ("database", "laminar"), ("application_name", "test")],
        ))
        .await;
    let messages = client.until('Z').await;
    let kinds: String = messages.iter().map(|message| message.kind).collect();
    assert_eq!(kinds, "RSSSSSSSKZ");
    assert!(
        messages
            .iter()
            .any(|message| message.body == b"application_name\0test\0")
    );
    let key = messages.iter().find(|message| message.kind == 'K').unwrap();
    assert_eq!(key.body.len(), 8);
}

#[tokio::test]
async fn newer_protocols_get_longer_keys_or_are_negotiated() {
    let server = start().await;
    let parameters = [("user", "u"), ("database", "laminar")];
    let mut client = RawClient::connect(server.address).await;
    client.send(&startup(VERSION_3_2, &parameters)).await;
    let messages = client.until('Z').await;
    let key = messages.iter().find(|message| message.kind == 'K').unwrap();
    assert_eq!(key.body.len(), 4 + 32);

    let mut client = RawClient::connect(server.address).await;
    let with_option = [("user", "u"), ("database", "laminar"), ("_pq_.shiny", "1")];
    client.send(&startup(196_608 + 9999, &with_option)).await;
    let messages = client.until('Z').await;
    assert_eq!(messages[0].kind, 'v');
    assert_eq!(messages[0].body, b"\0\x03\0\x02\0\0\0\x01_pq_.shiny\0");
}

async fn refused(parameters: &[(&str, &str)], protocol: i32) -> String {
    let server = start().await;
    let mut client = RawClient::connect(server.address).await;
    client.send(&startup(protocol, parameters)).await;
    let error = client.message().await.unwrap();
    assert_eq!(error.field(b'S').unwrap(), "FATAL");
    assert_eq!(client.message().await, None);
    error.code()
}

#[tokio::test]
async fn wrong_logins_are_told_why() {
    assert_eq!(
        refused(&[("user", "u"), ("database", "other")], VERSION_3_0).await,
        "3D000"
    );
    assert_eq!(
        refused(&[("user", "u")], VERSION_3_0).await,
        "3D000",
        "the default is the user's name"
    );
    assert_eq!(refused(&[("database", "laminar")], VERSION_3_0).await, "28000");
    assert_eq!(refused(&[("user", "u")], 131_072).await, "0A000", "protocol 2.0");
    let wrong_setting = [("user", "u"), ("database", "laminar"), ("options", "-c nonsense=1")];
    assert_eq!(refused(&wrong_setting, VERSION_3_0).await, "42704");
    let replication = [("user", "u"), ("database", "laminar"), ("replication", "database")];
    assert_eq!(refused(&replication, VERSION_3_0).await, "0A000");
}

#[tokio::test]
async fn encryption_is_declined_politely_without_a_certificate() {
    let server = start().await;
    let mut client = RawClient::connect(server.address).await;
    for request in [GSS_REQUEST, SSL_REQUEST] {
        client.send(&request).await;
        let mut answer = [0; 1];
        client.stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"N");
    }
    client
        .send(&startup(VERSION_3_0, &[("user", "u"), ("database", "laminar")]))
        .await;
    client.until('Z').await;
}

#[tokio::test]
async fn f_54_senseless_first_packets_are_closed() {
    let server = start().await;
    for packet in [
        &[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0][..],
        &[0, 0, 0, 7, 0, 3, 0, 0],
        &[0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x16, 3, 1, 0, 1, 0],
    ] {
        let mut client = RawClient::connect(server.address).await;
        client.send(packet).await;
        assert_eq!(client.message().await, None, "{packet:?}");
    }
}

#[tokio::test]
async fn f_53_too_many_clients_are_sent_away() {
    let config = PgConfig {
        connections_max: 1,
        ..PgConfig::at(any_port())
    };
    let server = start_with(config, Fake::default()).await;
    let _first = RawClient::login(server.address).await;
    let mut second = RawClient::connect(server.address).await;
    second
        .send(&startup(VERSION_3_0, &[("user", "u"), ("database", "laminar")]))
        .await;
    assert_eq!(second.message().await.unwrap().code(), "53300");
}

#[tokio::test]
async fn a_shutdown_ends_sessions_and_statements() {
    let server = start().await;
    let mut idle = RawClient::login(server.address).await;
    let mut busy = RawClient::login(server.address).await;
    busy.send(&query("endless")).await;
    busy.until('D').await;
    server.shutdown.cancel();
    assert_eq!(idle.message().await.unwrap().code(), "57P01");
    assert_eq!(busy.until('E').await.pop().unwrap().code(), "57P01");
    tokio::time::timeout(Duration::from_secs(2), server.task)
        .await
        .unwrap()
        .unwrap();
    becomes(&server.fake.streams, 0).await;
}

#[tokio::test]
async fn sessions_can_be_cancelled_and_ended_by_their_number() {
    let server = start().await;
    let mut client = RawClient::login(server.address).await;
    client.send(&query("pid")).await;
    let row = client
        .until('Z')
        .await
        .into_iter()
        .find(|message| message.kind == 'D')
        .unwrap();
    let pid: i32 = String::from_utf8_lossy(&row.body[6..]).parse().unwrap();
    client.send(&query("sleep")).await;
    becomes(&server.fake.running, 1).await;
    assert!(server.backends.cancel(pid));
    assert_eq!(client.until('Z').await[0].code(), "57014");
    assert!(server.backends.terminate(pid));
    assert_eq!(client.message().await.unwrap().code(), "57P01");
}

#[tokio::test]
async fn a_port_in_use_is_an_error_with_a_hint() {
    let server = start().await;
    let result = PgListener::bind(PgConfig::at(server.address), Arc::new(Backends::default())).await;
    let error = result.err().unwrap();
    assert!(error.message.contains(&server.address.to_string()), "{error}");
    assert!(error.hint.unwrap().contains("--sql-listen"));
}

#[tokio::test]
async fn other_addresses_need_tls() {
    let everywhere = PgConfig::at(std::net::SocketAddr::from(([0, 0, 0, 0], 0)));
    let error = PgListener::bind(everywhere, Arc::new(Backends::default()))
        .await
        .err()
        .unwrap();
    assert_eq!(error.code, SqlState::INVALID_PARAMETER_VALUE);
    let no_files = PgConfig {
        tls: Some(TlsFiles {
            certificate: "nowhere.crt".into(),
            key: "nowhere.key".into(),
        }),
        ..PgConfig::at(any_port())
    };
    let error = PgListener::bind(no_files, Arc::new(Backends::default()))
        .await
        .err()
        .unwrap();
    assert!(error.message.contains("nowhere.crt"), "{error}");
}

fn with_passwords() -> (PgConfig, Fake) {
    let config = PgConfig {
        trust_loopback: false,
        ..PgConfig::at(any_port())
    };
    let fake = Fake {
        verifier: Some(build_verifier("wonderland")),
        ..Fake::default()
    };
    (config, fake)
}

async fn password_login(address: std::net::SocketAddr, user: &str, password: &str) -> Result<(), Option<String>> {
    let mut config = tokio_postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(address.port())
        .user(user)
        .password(password)
        .dbname("laminar");
    match config.connect(tokio_postgres::NoTls).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.code().map(|code| code.code().to_owned())),
    }
}

#[tokio::test]
async fn passwords_are_checked() {
    let (config, fake) = with_passwords();
    let server = start_with(config, fake).await;
    assert_eq!(password_login(server.address, "alice", "wonderland").await, Ok(()));
    let wrong = Some("28P01".to_owned());
    assert_eq!(
        password_login(server.address, "alice", "looking-glass").await,
        Err(wrong.clone())
    );
    assert_eq!(password_login(server.address, "bob", "wonderland").await, Err(wrong));
}

#[tokio::test]
async fn password_messages_have_a_small_limit() {
    let (config, fake) = with_passwords();
    let server = start_with(config, fake).await;
    let mut client = RawClient::connect(server.address).await;
    client
        .send(&startup(VERSION_3_0, &[("user", "alice"), ("database", "laminar")]))
        .await;
    client.until('R').await;
    client.send(&frame(b'p', &vec![0; 20_000])[..100]).await;
    assert_eq!(client.message().await.unwrap().code(), "08P01");
}

fn test_tls() -> (tempfile::TempDir, TlsFiles) {
    let folder = tempfile::tempdir().unwrap();
    let files = TlsFiles {
        certificate: folder.path().join("server.crt"),
        key: folder.path().join("server.key"),
    };
    std::fs::write(&files.certificate, include_str!("localhost.crt")).unwrap();
    std::fs::write(&files.key, include_str!("localhost.key")).unwrap();
    (folder, files)
}

/// A TLS client that trusts the test's certificate.
fn tls_client() -> rustls::ClientConfig {
    use rustls_pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    let certificate = rustls_pki_types::CertificateDer::from_pem_slice(include_bytes!("localhost.crt")).unwrap();
    roots.add(certificate).unwrap();
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

#[tokio::test]
async fn tls_protects_and_binds_the_login() {
    let (_folder, files) = test_tls();
    let (config, fake) = with_passwords();
    let server = start_with(
        PgConfig {
            tls: Some(files),
            ..config
        },
        fake,
    )
    .await;
    let mut config = tokio_postgres::Config::new();
    config
        .host("localhost")
        .port(server.address.port())
        .user("alice")
        .password("wonderland")
        .dbname("laminar")
        .ssl_mode(tokio_postgres::config::SslMode::Require)
        .channel_binding(tokio_postgres::config::ChannelBinding::Require);
    let tls = tokio_postgres_rustls::MakeRustlsConnect::new(tls_client());
    let (client, connection) = config.connect(tls).await.unwrap();
    let connection = crate::spawn::named("test client", connection);
    let rows = client.query("rows 3", &[]).await.unwrap();
    assert_eq!(rows.len(), 3);
    drop(client);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn tls_at_once_needs_the_protocol_name() {
    let (_folder, files) = test_tls();
    let config = PgConfig {
        tls: Some(files),
        ..PgConfig::at(any_port())
    };
    let server = start_with(config, Fake::default()).await;
    for (alpn, accepted) in [(true, true), (false, false)] {
        let mut tls = tls_client();
        if alpn {
            tls.alpn_protocols = vec![b"postgresql".to_vec()];
        }
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls));
        let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        // The server may have closed already.
        let _ = stream
            .write_all(&startup(VERSION_3_0, &[("user", "u"), ("database", "laminar")]))
            .await;
        let mut first = [0; 1];
        let got = stream.read_exact(&mut first).await;
        assert_eq!(got.is_ok() && first == *b"R", accepted);
    }
}

#[tokio::test]
async fn bytes_before_the_handshake_are_not_data() {
    let (_folder, files) = test_tls();
    let config = PgConfig {
        tls: Some(files),
        ..PgConfig::at(any_port())
    };
    let server = start_with(config, Fake::default()).await;
    let mut client = RawClient::connect(server.address).await;
    let stuffed = [
        &SSL_REQUEST[..],
        &startup(VERSION_3_0, &[("user", "u"), ("database", "laminar")]),
    ];
    client.send(&stuffed.concat()).await;
    let mut answer = Vec::new();
    // A reset is as good as an end.
    let _ = client.stream.read_to_end(&mut answer).await;
    assert_eq!(answer.first(), Some(&b'S'));
    assert!(!answer.contains(&b'Z'), "{answer:?}");
}
