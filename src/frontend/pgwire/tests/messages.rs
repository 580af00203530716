//! The order of messages, as Postgres has it, seen byte by byte.

use std::sync::atomic::Ordering;

use super::raw::{RawClient, bind, close, describe, execute, frame, parse, query, sync};
use super::{becomes, start};

/// Sends and gives the types of the replies up to ReadyForQuery.
async fn kinds(client: &mut RawClient, messages: &[Vec<u8>]) -> String {
    client.send(&messages.concat()).await;
    client.kinds().await
}

#[tokio::test]
async fn simple_statements_answer_in_turn_and_stop_at_the_first_error() {
    let server = start().await;
    let mut client = RawClient::login(server.address).await;
    assert_eq!(
        kinds(&mut client, &[query("rows 2; notice; set application_name x")]).await,
        "TDDCNCCSZ"
    );
    assert_eq!(kinds(&mut client, &[query(" ; ")]).await, "IZ");
    client.send(&query("rows 1; nothing; rows 2")).await;
    let replies = client.until('Z').await;
    let seen: String = replies.iter().map(|message| message.kind).collect();
    assert_eq!(seen, "TDCEZ");
    let error = &replies[3];
    assert_eq!(error.code(), "42P01");
    assert_eq!(error.field(b'P').unwrap(), "1");
    assert_eq!(error.field(b'H').unwrap(), "Use SHOW TABLES to list the tables.");
    assert_eq!(error.field(b'S').unwrap(), "ERROR");
    assert_eq!(
        kinds(&mut client, &[query("rows 1; a syntax error")]).await,
        "EZ",
        "nothing runs"
    );
    assert_eq!(kinds(&mut client, &[query("late failure")]).await, "TDDDEZ");
}

#[tokio::test]
async fn extended_statements_answer_in_turn() {
    let server = start().await;
    let mut client = RawClient::login(server.address).await;
    let whole = [
        parse("", "rows 2", &[]),
        bind("", "", &[], &[]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ];
    assert_eq!(kinds(&mut client, &whole).await, "12TDDCZ");
    let described = [parse("s", "echo", &[23]), describe(b'S', "s"), sync()];
    assert_eq!(kinds(&mut client, &described).await, "1tTZ");
    let no_rows = [
        parse("n", "notice", &[]),
        describe(b'S', "n"),
        bind("", "n", &[], &[]),
        execute("", 0),
        sync(),
    ];
    assert_eq!(kinds(&mut client, &no_rows).await, "1tn2NCZ");
    let empty = [
        parse("", "", &[]),
        bind("", "", &[], &[]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ];
    assert_eq!(kinds(&mut client, &empty).await, "12nIZ");
    let closing = [close(b'S', "s"), close(b'P', "never was"), sync()];
    assert_eq!(kinds(&mut client, &closing).await, "33Z");
}

#[tokio::test]
async fn pipelined_statements_share_one_sync() {
    let server = start().await;
    let mut client = RawClient::login(server.address).await;
    let mut messages = Vec::new();
    for _ in 0..3 {
        messages.extend([parse("", "rows 1", &[]), bind("", "", &[], &[]), execute("", 0)]);
    }
    messages.push(sync());
    assert_eq!(kinds(&mut client, &messages).await, "12DC12DC12DCZ");
}

#[tokio::test]
async fn after_an_error_everything_is_skipped_to_sync() {
    let server = start().await;
    let mut client = RawClient::login(server.address).await;
    let messages = [
        parse("", "nothing", &[]),
        bind("", "", &[], &[]),
        execute("", 0),
        parse("", "rows 1", &[]),
        bind("", "", &[], &[]),
        execute("", 0),
        sync(),
        query("rows 1"),
    ];
    assert_eq!(kinds(&mut client, &messages).await, "12EZ");
    assert_eq!(client.kinds().await, "TDCZ");
}

async fn error_code(client: &mut RawClient, messages: &[Vec<u8>]) -> String {
    client.send(&messages.concat()).await;
    let replies = client.until('Z').await;
    let errors: Vec<String> = replies
        .iter()
        .filter(|reply| reply.kind == 'E')
        .map(|reply| reply.code())
        .collect();
    assert_eq!(errors.len(), 1, "{replies:?}");
    errors[0].clone()
}

#[tokio::test]
async fn f_54_wrong_messages_have_their_codes() {
    let server = start().await;
    let mut client = RawClient::login(server.address).await;
    let client = &mut client;
    assert_eq!(error_code(client, &[bind("", "none", &[], &[]), sync()]).await, "26000");
    assert_eq!(error_code(client, &[describe(b'S', "none"), sync()]).await, "26000");
    assert_eq!(error_code(client, &[describe(b'P', "none"), sync()]).await, "34000");
    assert_eq!(error_code(client, &[execute("none", 0), sync()]).await, "34000");
    let twice = [parse("twice", "rows 1", &[]), parse("twice", "rows 1", &[]), sync()];
    assert_eq!(error_code(client, &twice).await, "42P05");
    let portals = [bind("p", "twice", &[], &[]), bind("p", "twice", &[], &[]), sync()];
    assert_eq!(error_code(client, &portals).await, "42P03");
    assert_eq!(
        error_code(client, &[bind("", "twice", &[b"1"], &[]), sync()]).await,
        "08P01"
    );
    assert_eq!(
        error_code(client, &[bind("", "twice", &[], &[0, 0]), sync()]).await,
        "08P01"
    );
    assert_eq!(
        error_code(client, &[bind("", "twice", &[], &[7]), sync()]).await,
        "22023"
    );
    assert_eq!(
        error_code(client, &[parse("", "rows 1; rows 2", &[]), sync()]).await,
        "42601"
    );
    let number = [parse("", "echo", &[23]), bind("", "", &[b"x"], &[]), sync()];
    assert_eq!(error_code(client, &number).await, "22P02");
    assert_eq!(error_code(client, &[frame(b'P', b"\0no end"), sync()]).await, "08P01");
    assert_eq!(error_code(client, &[frame(b'Q', b"\xff\0")]).await, "22021");
    assert_eq!(error_code(client, &[frame(b'F', b"whatever")]).await, "0A000");
    assert_eq!(
        error_code(client, &[query("nothing")]).await,
        "42P01",
        "the session lives"
    );
}

#[tokio::test]
async fn a_described_result_must_not_change() {
    let server = start().await;
    let mut client = RawClient::login(server.address).await;
    // The fake describes no columns for it, and gives two.
    let changed = [
        parse("", "changed", &[]),
        bind("", "", &[], &[]),
        execute("", 0),
        sync(),
    ];
    assert_eq!(error_code(&mut client, &changed).await, "XX000");
}

#[tokio::test]
async fn portals_are_read_in_parts() {
    let server = start().await;
    let mut client = RawClient::login(server.address).await;
    client.send(&query("begin")).await;
    client.kinds().await;
    let opening = [
        parse("", "rows 5", &[]),
        bind("c", "", &[], &[]),
        execute("c", 2),
        sync(),
    ];
    assert_eq!(kinds(&mut client, &opening).await, "12DDsZ");
    assert_eq!(kinds(&mut client, &[execute("c", 2), sync()]).await, "DDsZ");
    client.send(&[execute("c", 2), execute("c", 2), sync()].concat()).await;
    let replies = client.until('Z').await;
    assert_eq!(replies[1].body, b"SELECT 1\0");
    assert_eq!(replies[2].body, b"SELECT 0\0");
    assert_eq!(replies[3].body, b"T");
    assert_eq!(kinds(&mut client, &[query("commit")]).await, "CZ");
    assert_eq!(
        error_code(&mut client, &[execute("c", 2), sync()]).await,
        "34000",
        "it ends with the transaction"
    );
    let outside = [bind("c", "", &[], &[]), sync()];
    assert_eq!(
        error_code(&mut client, &outside).await,
        "26000",
        "a simple query does away with the unnamed statement"
    );
}

#[tokio::test]
async fn a_suspended_portal_does_not_run_ahead() {
    let server = start().await;
    let mut client = RawClient::login(server.address).await;
    let opening = [
        query("begin"),
        parse("", "flood", &[]),
        bind("c", "", &[], &[]),
        execute("c", 3),
        sync(),
    ];
    client.send(&opening.concat()).await;
    client.until('Z').await;
    assert_eq!(client.kinds().await, "12DDDsZ");
    assert_eq!(server.fake.streams.load(Ordering::SeqCst), 1);
    assert_eq!(kinds(&mut client, &[close(b'P', "c"), sync()]).await, "3Z");
    becomes(&server.fake.streams, 0).await;
}

#[tokio::test]
async fn an_endless_result_is_delivered_while_it_comes() {
    let server = start().await;
    let mut client = RawClient::login(server.address).await;
    client.send(&query("endless")).await;
    for kind in ['T', 'D', 'D', 'D'] {
        assert_eq!(client.message().await.unwrap().kind, kind);
    }
    let mut client = RawClient::login(server.address).await;
    // Without Sync or Flush: the rows must not wait for either.
    client
        .send(&[parse("", "endless", &[]), bind("", "", &[], &[1]), execute("", 0)].concat())
        .await;
    for kind in ['1', '2', 'D', 'D', 'D'] {
        assert_eq!(client.message().await.unwrap().kind, kind);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_statement() {
    let server = start().await;
    for statement in ["endless", "flood"] {
        let mut client = RawClient::login(server.address).await;
        client.send(&query(statement)).await;
        client.until('D').await;
        becomes(&server.fake.streams, 1).await;
        drop(client);
        becomes(&server.fake.streams, 0).await;
    }
    let mut client = RawClient::login(server.address).await;
    client.send(&query("sleep")).await;
    becomes(&server.fake.running, 1).await;
    drop(client);
    becomes(&server.fake.running, 0).await;
    let mut client = RawClient::login(server.address).await;
    client.send(&query("endless")).await;
    client.until('D').await;
    client.send(&frame(b'X', b"")).await;
    becomes(&server.fake.streams, 0).await;
}

#[tokio::test]
async fn f_51_a_client_that_does_not_read_stops_the_rows() {
    let server = start().await;
    let mut client = RawClient::login(server.address).await;
    client.send(&query("flood")).await;
    becomes(&server.fake.streams, 1).await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    // Still there, and still at the first rows when read on.
    let replies = client.until('D').await;
    assert_eq!(replies.last().unwrap().body, b"\0\x01\0\0\0\x010");
}

#[tokio::test]
async fn a_message_over_the_limit_is_skipped() {
    let server = start().await;
    let mut client = RawClient::login(server.address).await;
    let body = vec![b'a'; crate::frontend::pgwire::limits::FRAME_BYTES_MAX + 1];
    client.send(&frame(b'Q', &body)).await;
    let replies = client.until('Z').await;
    assert_eq!(replies[0].code(), "54000");
    assert_eq!(kinds(&mut client, &[query("rows 1")]).await, "TDCZ");
}

#[tokio::test]
async fn too_many_prepared_statements_are_refused() {
    let server = start().await;
    let mut client = RawClient::login(server.address).await;
    let max = crate::frontend::pgwire::limits::PREPARED_STATEMENTS_MAX;
    let mut messages: Vec<Vec<u8>> = (0..max).map(|at| parse(&format!("s{at}"), "rows 1", &[])).collect();
    messages.push(sync());
    client.send(&messages.concat()).await;
    assert_eq!(client.kinds().await.len(), max + 1);
    assert_eq!(
        error_code(&mut client, &[parse("more", "rows 1", &[]), sync()]).await,
        "54000"
    );
}

#[tokio::test]
async fn a_broken_stream_ends_the_connection() {
    let server = start().await;
    for bytes in [b"Q\0\0\0\x01".as_slice(), b"?\0\0\0\x04"] {
        let mut client = RawClient::login(server.address).await;
        client.send(bytes).await;
        let error = client.message().await.unwrap();
        assert_eq!(
            (error.code().as_str(), error.field(b'S').unwrap().as_str()),
            ("08P01", "FATAL")
        );
        assert_eq!(client.message().await, None);
    }
}

#[tokio::test]
async fn a_panic_ends_one_connection_only() {
    let server = start().await;
    let mut other = RawClient::login(server.address).await;
    let mut client = RawClient::login(server.address).await;
    client.send(&query("panic")).await;
    let error = client.message().await.unwrap();
    assert_eq!(
        (error.code().as_str(), error.field(b'S').unwrap().as_str()),
        ("XX000", "FATAL")
    );
    assert_eq!(client.message().await, None);
    assert_eq!(kinds(&mut other, &[query("rows 1")]).await, "TDCZ");
}

#[tokio::test]
async fn errors_fail_an_open_transaction() {
    let server = start().await;
    let mut client = RawClient::login(server.address).await;
    client.send(&query("begin; nothing")).await;
    assert_eq!(client.until('Z').await.pop().unwrap().body, b"E");
    assert_eq!(error_code(&mut client, &[query("rows 1")]).await, "25P02");
    client.send(&query("rollback")).await;
    assert_eq!(client.until('Z').await.pop().unwrap().body, b"I");
}

#[tokio::test]
async fn copy_has_its_messages_in_both_protocols() {
    let server = start().await;
    let mut client = RawClient::login(server.address).await;
    client.send(&query("copy rows_2 csv")).await;
    let replies = client.until('Z').await;
    let seen: String = replies.iter().map(|message| message.kind).collect();
    assert_eq!(seen, "HdddcCZ");
    assert_eq!(replies[1].body, b"n\n");
    assert_eq!(replies[2].body, b"0\n");
    assert_eq!(replies[5].body, b"COPY 2\0");
    let messages = [
        parse("", "copy rows_2 binary", &[]),
        bind("", "", &[], &[]),
        execute("", 0),
        sync(),
    ];
    assert_eq!(kinds(&mut client, &messages).await, "12HddddcCZ");
    assert_eq!(kinds(&mut client, &[query("copy late_failure text")]).await, "HdddEZ");
    // What a client sends for a COPY FROM that was refused is ignored.
    client
        .send(&[frame(b'd', b"1\n"), frame(b'c', b""), query("rows 1")].concat())
        .await;
    assert_eq!(client.kinds().await, "TDCZ");
}
