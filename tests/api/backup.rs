//! `trimaran grid backup` and `restore`, as an operator types them.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use redis::aio::MultiplexedConnection;
use redis::{Value, cmd};
use tonic::Code;
use trimaran_net::dial::{Dial, TcpDial, channel};
use trimaran_proto::api::backup::ImportRequest;
use trimaran_proto::api::backup::backup_client::BackupClient;
use trimaran_tests::harness::process::{Cluster, binary};

/// Of the list that is larger than what is put in at once.
const LONG_ELEMENTS: usize = 20;
const LONG_ELEMENT_BYTES: usize = 1 << 20;

const KEYS: usize = 3000;

/// Length, checksum, kind, number.
const RECORD_HEADER_BYTES: usize = 17;

async fn redis_of(cluster: &Cluster) -> MultiplexedConnection {
    let client = redis::Client::open(format!("redis://{}", cluster.nodes[0].front)).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn ask(redis: &mut MultiplexedConnection, words: &[&str]) -> Value {
    let mut command = cmd(words[0]);
    for word in &words[1..] {
        command.arg(word);
    }
    command.query_async(redis).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

fn grid(cluster: &Cluster, words: &[&str], file: &Path) -> Output {
    let mut command = Command::new(binary());
    command.args(["grid", "--address", &cluster.addresses().join(",")]).args(words).arg(file);
    command.output().unwrap()
}

fn told(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn fill(redis: &mut MultiplexedConnection) {
    for words in [
        &["SET", "string", "text"][..],
        &["SET", "", "of the empty key"],
        &["SET", "binary", "\u{0}\u{1}\r\n"],
        &["SET", "for a while", "text", "PXAT", "33000000000000"],
        &["RPUSH", "list", "a", "b", "a"],
        &["SADD", "integers", "3", "1", "2"],
        &["SADD", "set", "x", "y", "1"],
        &["ZADD", "sorted", "1.5", "a", "-inf", "b", "inf", "c"],
        &["HSET", "hash", "field", "value", "other", ""],
        &["HPEXPIREAT", "hash", "33000000000000", "FIELDS", "1", "field"],
        &["XADD", "stream", "5-1", "a", "1"],
        &["XADD", "stream", "6-0", "b", "2"],
        &["XADD", "stream", "7-0", "c", "3"],
        &["XDEL", "stream", "7-0"],
        &["XGROUP", "CREATE", "stream", "group", "5-1"],
        &["XREADGROUP", "GROUP", "group", "somebody", "STREAMS", "stream", ">"],
        &["XGROUP", "CREATE", "without entries", "group", "$", "MKSTREAM"],
        &["PFADD", "visitors", "a", "b", "c"],
        &["FUNCTION", "LOAD", "#!lua name=lib\nredis.register_function('f', function() return 'called' end)"],
    ] {
        ask(redis, words).await;
    }
    let mut all = redis::pipe();
    for at in 0..KEYS {
        all.set(format!("key:{at}"), at).ignore();
    }
    for at in 0..2000 {
        all.hset("a large hash", at, at * 7).ignore();
    }
    all.exec_async(redis).await.unwrap();
    for at in 0..LONG_ELEMENTS {
        let element = vec![b'a' + at as u8; LONG_ELEMENT_BYTES];
        cmd("RPUSH").arg("a long list").arg(element).exec_async(redis).await.unwrap();
    }
}

/// What a client sees of it, in an order that does not depend on how it is laid out.
async fn seen(redis: &mut MultiplexedConnection) -> Vec<String> {
    let mut seen = Vec::new();
    for words in [
        &["GET", "string"][..],
        &["GET", ""],
        &["GET", "binary"],
        &["PEXPIRETIME", "for a while"],
        &["LRANGE", "list", "0", "-1"],
        &["OBJECT", "ENCODING", "integers"],
        &["SORT", "integers"],
        &["SORT", "set", "ALPHA"],
        &["ZRANGE", "sorted", "0", "-1", "WITHSCORES"],
        &["HGET", "hash", "other"],
        &["HPEXPIRETIME", "hash", "FIELDS", "2", "field", "other"],
        &["XRANGE", "stream", "-", "+"],
        &["XINFO", "GROUPS", "stream"],
        &["XPENDING", "stream", "group", "-", "+", "10"],
        &["XINFO", "STREAM", "without entries"],
        &["PFCOUNT", "visitors"],
        &["HLEN", "a large hash"],
        &["HGET", "a large hash", "1999"],
        &["LLEN", "a long list"],
        &["DBSIZE"],
        &["FCALL", "f", "0"],
    ] {
        let mut said = format!("{words:?} {:?}", ask(redis, words).await);
        // It says how long it was idle.
        if words[0] == "XPENDING" {
            said.truncate(40);
        }
        seen.push(said);
    }
    for at in 0..LONG_ELEMENTS {
        let element: Vec<u8> = cmd("LINDEX").arg("a long list").arg(at).query_async(redis).await.unwrap();
        assert!(element.len() == LONG_ELEMENT_BYTES && element.iter().all(|byte| *byte == b'a' + at as u8));
    }
    let sum = (0..KEYS).step_by(100).fold(redis::pipe(), |mut all, at| {
        all.get(format!("key:{at}"));
        all
    });
    let values: Vec<usize> = sum.query_async(redis).await.unwrap();
    seen.push(format!("{values:?}"));
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_is_filled_from_the_backup_of_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("grid.backup");
    let from = Cluster::grid(3, "memory", 4).await;
    let mut redis = redis_of(&from).await;
    fill(&mut redis).await;
    let before = seen(&mut redis).await;
    let client = from.grid_client().await;
    let guard = client.lock("a lock").try_acquire().await.unwrap().unwrap();
    let said = told(&grid(&from, &["backup"], &file));
    assert!(said.contains("4 partitions"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    let checked = told(&grid(&from, &["restore", "--check"], &file));
    assert!(checked.starts_with("complete: ") && checked.contains("4 partitions"), "{checked}");

    let into = Cluster::grid(1, "memory", 3).await;
    let mut other = redis_of(&into).await;
    let as_json = grid(&into, &["restore", "--output", "json"], &file);
    let json: serde_json::Value = serde_json::from_str(&told(&as_json)).unwrap();
    assert_eq!((&json["kept"], &json["expired"]), (&0.into(), &0.into()));
    assert_eq!(seen(&mut other).await, before);
    let client = into.grid_client().await;
    let taken = client.lock("a lock").try_acquire().await.unwrap().expect("nobody holds it here");
    assert!(taken.token() > guard.token(), "{} is not above {}", taken.token(), guard.token());

    // What is there stays, unless it is to be replaced.
    ask(&mut other, &["SET", "string", "another"]).await;
    ask(&mut other, &["DEL", "key:7"]).await;
    let said = told(&grid(&into, &["restore"], &file));
    assert!(said.starts_with("1 keys restored"), "{said}");
    assert_eq!(ask(&mut other, &["GET", "string"]).await, Value::BulkString(b"another".into()));
    told(&grid(&into, &["restore", "--replace"], &file));
    assert_eq!(seen(&mut other).await, before);
    // A function that is in another library stays what it is, and that is told.
    ask(&mut other, &["FUNCTION", "DELETE", "lib"]).await;
    let library = "#!lua name=mine\nredis.register_function('f', function() return 'mine' end)";
    ask(&mut other, &["FUNCTION", "LOAD", library]).await;
    let output = grid(&into, &["restore", "--replace", "--output", "json"], &file);
    let json: serde_json::Value = serde_json::from_str(&told(&output)).unwrap();
    assert!(json["left_out"][0].as_str().unwrap().contains("library lib: "), "{json}");
    assert_eq!(ask(&mut other, &["FCALL", "f", "0"]).await, Value::BulkString(b"mine".into()));
    // Those that wait for a key are told.
    ask(&mut other, &["DEL", "list"]).await;
    let mut waiting = redis_of(&into).await;
    let popped = tokio::spawn(async move { ask(&mut waiting, &["BLPOP", "list", "60"]).await });
    told(&grid(&into, &["restore"], &file));
    assert_eq!(
        popped.await.unwrap(),
        Value::Array(vec![Value::BulkString(b"list".into()), Value::BulkString(b"a".into())])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_refused_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("grid.backup");
    let cluster = Cluster::grid(1, "memory", 2).await;
    let mut redis = redis_of(&cluster).await;
    ask(&mut redis, &["SET", "key", "a value that can be found in the file"]).await;
    told(&grid(&cluster, &["backup"], &file));
    let whole = std::fs::read(&file).unwrap();
    let place = whole.windows(7).position(|bytes| bytes == b"a value").unwrap();
    let mut damaged = whole.clone();
    damaged[place] ^= 1;
    let refused = |contents: &[u8], words: &[&str]| {
        std::fs::write(&file, contents).unwrap();
        let output = grid(&cluster, words, &file);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    ask(&mut redis, &["DEL", "key"]).await;
    // The first record, and one that is left out behind it.
    let first = u32::from_le_bytes(whole[..4].try_into().unwrap()) as usize + RECORD_HEADER_BYTES;
    let second =
        u32::from_le_bytes(whole[first..first + 4].try_into().unwrap()) as usize + RECORD_HEADER_BYTES;
    let missing = [&whole[..first], &whole[first + second..]].concat();
    for words in [&["restore", "--check"][..], &["restore", "--replace"]] {
        let said = refused(&missing, words);
        assert!(said.contains(&format!("damaged, or broken off, at byte {first}")), "{said}");
        let said = refused(&damaged, words);
        assert!(said.contains("damaged") && said.contains("at byte "), "{said}");
        let said = refused(&whole[..whole.len() - 3], words);
        assert!(said.contains("broken off"), "{said}");
        let said = refused(b"something else", words);
        assert!(said.contains("no backup of a grid"), "{said}");
    }
    assert_eq!(ask(&mut redis, &["DBSIZE"]).await, Value::Int(0), "nothing of a damaged file is put in");
    // One that comes from elsewhere over the API is looked at as closely.
    let dial: Arc<dyn Dial> = Arc::new(TcpDial);
    let mut client = BackupClient::new(channel(&dial, &cluster.addresses()[0]).unwrap());
    let import = |chunk: &'static [u8], id: Option<&str>| {
        let mut request =
            tonic::Request::new(ImportRequest { chunk: chunk.into(), ..ImportRequest::default() });
        if let Some(id) = id {
            request.metadata_mut().insert("trimaran-request-id", id.parse().unwrap());
        }
        request
    };
    let id = "00112233445566778899aabbccddeeff";
    let without = client.import(import(b"", None)).await.unwrap_err();
    assert!(without.code() == Code::InvalidArgument && without.message().contains("request-id"), "{without}");
    let no_chunk = client.import(import(b"\xff\xff", Some(id))).await.unwrap_err();
    assert!(no_chunk.code() == Code::InvalidArgument && no_chunk.message().contains("chunk"), "{no_chunk}");
}
