//! The Redis protocol: commands, pipelines over several partitions, and bad input.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use trimaran_tests::harness::PATIENCE;
use trimaran_tests::harness::process::Cluster;

struct Redis(TcpStream);

impl Redis {
    async fn connect(address: &str) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Sends bytes and reads until as many answer bytes as expected have come.
    async fn says(&mut self, request: &[u8], expected: &str) {
        self.0.write_all(request).await.unwrap();
        let mut answer = vec![0; expected.len()];
        timeout(PATIENCE, self.0.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), expected, "{}", String::from_utf8_lossy(request));
    }

    /// Sends bytes that must be answered with an error that contains `expected`, and the connection closed.
    async fn must_be_refused(mut self, request: &[u8], expected: &str) {
        // The node may close before it has read everything.
        let _closed = self.0.write_all(request).await;
        let mut answer = Vec::new();
        let _reset = timeout(PATIENCE, self.0.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains(expected), "{answer}");
    }
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend(*word);
        bytes.extend(b"\r\n");
    }
    bytes
}

/// What a command reads is what those before it have written, whatever is between them and wherever the keys are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_is_answered_as_its_commands_would_be_one_after_the_other() {
    let cluster = Cluster::grid(1, "memory", 4).await;
    let mut redis = Redis::connect(&cluster.nodes[0].front).await;
    let (mut requests, mut answers) = (Vec::new(), String::new());
    for round in 0..60 {
        let key = format!("k{round}");
        for (line, answer) in [
            ("PING".to_owned(), "+PONG\r\n".to_owned()),
            (format!("SET {key} {round}"), "+OK\r\n".to_owned()),
            (format!("GET {key}"), format!("${}\r\n{round}\r\n", round.to_string().len())),
            (format!("INCR {key}"), format!(":{}\r\n", round + 1)),
            (format!("RPUSH l{{{key}}} a b"), ":2\r\n".to_owned()),
            (
                format!("INCR l{{{key}}}"),
                "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n".to_owned(),
            ),
            (format!("GET nothing{round}"), "$-1\r\n".to_owned()),
            (format!("EVAL redis.call('append',KEYS[1],'z') 1 {{{key}}}e"), "$-1\r\n".to_owned()),
            (format!("APPEND {{{key}}}e w"), ":2\r\n".to_owned()),
            (format!("EXISTS {key} {{{key}}}e"), ":2\r\n".to_owned()),
        ] {
            requests.extend(command(&line.split(' ').map(str::as_bytes).collect::<Vec<_>>()));
            answers.push_str(&answer);
        }
    }
    redis.says(&requests, &answers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_client_finds_what_it_expects() {
    let cluster = Cluster::grid(1, "memory", 4).await;
    let mut redis = Redis::connect(&cluster.nodes[0].front).await;
    redis.says(b"PING\r\n", "+PONG\r\n").await;
    for (request, answer) in [
        ("SET k v", "+OK\r\n"),
        ("GET k", "$1\r\nv\r\n"),
        ("SET k w NX", "$-1\r\n"),
        ("SET k w XX GET", "$1\r\nv\r\n"),
        ("SET k w EX 0", "-ERR invalid expire time in 'set' command\r\n"),
        ("SET k w EX 5 PX 5", "-ERR syntax error\r\n"),
        ("SET t w PX 100000", "+OK\r\n"),
        ("SET t x KEEPTTL", "+OK\r\n"),
        ("TTL t", ":100\r\n"),
        ("TTL k", ":-1\r\n"),
        ("TTL nope", ":-2\r\n"),
        ("EXPIRE k 100", ":1\r\n"),
        ("EXPIRE nope 100", ":0\r\n"),
        ("PERSIST k", ":1\r\n"),
        ("EXPIRE k -1", ":1\r\n"),
        ("EXISTS k", ":0\r\n"),
        ("INCRBY n 41", ":41\r\n"),
        ("INCR n", ":42\r\n"),
        ("INCRBY n x", "-ERR value is not an integer or out of range\r\n"),
        ("SET s abc", "+OK\r\n"),
        ("INCR s", "-ERR value is not an integer or out of range\r\n"),
        ("MSET {a}1 x {a}2 y", "+OK\r\n"),
        ("MSET a x b y c z d w", "-CROSSSLOT Keys in request don't hash to the same slot\r\n"),
        ("MGET {a}1 nope {a}2 s", "*4\r\n$1\r\nx\r\n$-1\r\n$1\r\ny\r\n$3\r\nabc\r\n"),
        ("DEL {a}1 {a}2 s nope", ":3\r\n"),
        ("GETDEL n", "$2\r\n42\r\n"),
        ("TYPE t", "+string\r\n"),
        ("STRLEN t", ":1\r\n"),
        ("GET", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("NOPE a b", "-ERR unknown command 'NOPE', with args beginning with: 'a' 'b' \r\n"),
        ("SELECT 1", "-ERR DB index is out of range: there is database 0 only\r\n"),
        ("HELLO 3", "%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n"),
    ] {
        redis.says(format!("{request}\r\n").as_bytes(), answer).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_over_partitions_is_answered_in_order_and_a_scan_finds_every_key() {
    let cluster = Cluster::grid(3, "memory", 4).await;
    // Any node takes any key: this one leads some partitions and passes the others on.
    let mut redis = Redis::connect(&cluster.nodes[1].front).await;
    let mut request = Vec::new();
    let mut expected = String::new();
    for number in 0..300 {
        let (key, value) = (format!("key-{number}"), format!("value-{number}"));
        request.extend(command(&[b"SET", key.as_bytes(), value.as_bytes()]));
        request.extend(command(&[b"GET", key.as_bytes()]));
        expected += &format!("+OK\r\n${}\r\n{value}\r\n", value.len());
    }
    redis.says(&request, &expected).await;

    let mut keys = std::collections::BTreeSet::new();
    let mut cursor = "0".to_owned();
    loop {
        redis.0.write_all(format!("SCAN {cursor} COUNT 17 MATCH key-*\r\n").as_bytes()).await.unwrap();
        let mut reader = tokio::io::BufReader::new(&mut redis.0);
        let lines = read_scan(&mut reader).await;
        cursor = lines[0].clone();
        keys.extend(lines[1..].iter().cloned());
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(keys.len(), 300);
}

/// The bulk strings of a SCAN answer: the cursor, then the keys.
async fn read_scan(reader: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> Vec<String> {
    use tokio::io::AsyncBufReadExt as _;
    let mut line = String::new();
    let mut next = async || {
        line.clear();
        reader.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    };
    assert_eq!(next().await, "*2");
    next().await;
    let mut found = vec![next().await];
    let count: usize = next().await.strip_prefix('*').unwrap().parse().unwrap();
    for _ in 0..count {
        next().await;
        found.push(next().await);
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_gets_a_clear_error_and_the_node_goes_on() {
    let mut cluster = Cluster::grid(1, "memory", 1).await;
    let address = cluster.nodes[0].front.clone();
    let connect = async || Redis::connect(&address).await;

    // Over a limit: the limit is named, the connection stays.
    let mut redis = connect().await;
    let long = vec![b'k'; 65_537];
    let limit = "-ERR key has 65537, the limit KEY_BYTES_MAX is 65536\r\n";
    redis.says(&command(&[b"SET", &long, b"v"]), limit).await;
    redis.says(&command(&[b"GET", b""]), "$-1\r\n").await;
    let huge = vec![b'v'; (16 << 20) + 1];
    let limit = "-ERR value has 16777217, the limit VALUE_BYTES_MAX is 16777216\r\n";
    redis.says(&command(&[b"SET", b"k", &huge]), limit).await;
    redis.says(&command(&[b"GET", b"k"]), "$-1\r\n").await;
    // A name with a line end cannot forge an answer.
    let forged = "-ERR unknown command 'x  +OK', with args beginning with: \r\n";
    redis.says(&command(&[b"x\r\n+OK"]), forged).await;

    // What is no request: the error says so, the connection ends.
    connect().await.must_be_refused(b"*1\r\n:1\r\n", "expected '$', got ':'").await;
    connect().await.must_be_refused(b"*999999999\r\n", "invalid multibulk length").await;
    connect().await.must_be_refused(b"*2\r\n$3\r\nGET\r\n$99999999999\r\n", "invalid bulk length").await;
    connect().await.must_be_refused(&vec![b'a'; 70_000], "too big inline request").await;

    // Half a request, then silence: nobody else waits for it.
    let mut half = connect().await;
    half.0.write_all(b"*2\r\n$3\r\nGET\r\n$5\r\nab").await.unwrap();
    // A thousand connections that say nothing.
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(connect().await);
    }
    connect().await.says(b"SET alive 1\r\n", "+OK\r\n").await;
    idle[999].says(b"GET alive\r\n", "$1\r\n1\r\n").await;
    drop(idle);
    drop(half);
    connect().await.says(b"GET alive\r\n", "$1\r\n1\r\n").await;
    assert!(cluster.nodes[0].runs(), "{}", cluster.nodes[0].log());
    assert!(!cluster.nodes[0].log().contains("panicked"), "{}", cluster.nodes[0].log());
}

/// A connection to each node of a cluster of three, with four partitions.
async fn three() -> (Cluster, Vec<Redis>) {
    let cluster = Cluster::grid(3, "buffered", 4).await;
    let mut connections = Vec::new();
    for node in &cluster.nodes {
        connections.push(Redis::connect(&node.front).await);
    }
    (cluster, connections)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_whole_at_any_node_and_see_what_was_changed_at_another() {
    let (cluster, mut nodes) = three().await;
    nodes[0].says(b"SET {t}a 1\r\n", "+OK\r\n").await;
    nodes[1]
        .says(
            b"WATCH {t}a {t}nope\r\nMULTI\r\nINCR {t}a\r\nLPUSH {t}l x\r\nPING\r\nEXEC\r\n",
            "+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n:2\r\n:1\r\n+PONG\r\n",
        )
        .await;
    // What another connection changes between WATCH and EXEC is seen, wherever it is changed.
    for change in ["INCR {t}a", "DEL {t}a", "EVAL return(redis.call('set',KEYS[1],'x')) 1 {t}a"] {
        nodes[1].says(b"WATCH {t}a\r\n", "+OK\r\n").await;
        nodes[2].0.write_all(format!("{change}\r\n").as_bytes()).await.unwrap();
        let mut first = [0; 4];
        nodes[2].0.read_exact(&mut first).await.unwrap();
        nodes[2] = Redis::connect(&cluster.nodes[2].front).await;
        nodes[1].says(b"MULTI\r\nSET {t}a mine\r\nEXEC\r\n", "+OK\r\n+QUEUED\r\n*-1\r\n").await;
    }
    // Nothing of it, if a command is refused before.
    nodes[0]
        .says(
            b"MULTI\r\nSET {t}b 1\r\nSET {t}b\r\nEXEC\r\nGET {t}b\r\n",
            "+OK\r\n+QUEUED\r\n-ERR wrong number of arguments for 'set' command\r\n\
             -EXECABORT Transaction discarded because of previous errors.\r\n$-1\r\n",
        )
        .await;
    nodes[0]
        .says(
            b"MULTI\r\nSET a 1\r\nSET b 1\r\nSET c 1\r\nSET d 1\r\nEXEC\r\n",
            "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n\
             -CROSSSLOT Keys in request don't hash to the same slot\r\n",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_an_element_gets_it_in_turn_wherever_it_is_pushed() {
    let (cluster, mut nodes) = three().await;
    // One at each node, the next one only when the one before waits.
    let mut waiting = Vec::new();
    for (place, node) in cluster.nodes.iter().enumerate() {
        let mut redis = Redis::connect(&node.front).await;
        redis.0.write_all(b"BLPOP {q}nothing {q}ueue 0\r\n").await.unwrap();
        until_blocked(&mut nodes[place], 1).await;
        waiting.push(redis);
    }
    // Elements of one command: one for each, the longest waiting first; the rest stays.
    nodes[1].says(b"RPUSH {q}ueue a b c d\r\n", ":4\r\n").await;
    for (redis, element) in waiting.iter_mut().zip(["a", "b", "c"]) {
        redis.says(b"", &format!("*2\r\n$7\r\n{{q}}ueue\r\n$1\r\n{element}\r\n")).await;
    }
    nodes[2].says(b"LRANGE {q}ueue 0 -1\r\n", "*1\r\n$1\r\nd\r\n").await;
    // A time that is over, and a client that goes before its turn: its element is left to the next.
    nodes[0].says(b"BZPOPMIN nothing 0.05\r\n", "*-1\r\n").await;
    let mut gone = Redis::connect(&cluster.nodes[0].front).await;
    gone.0.write_all(b"BLMOVE {s}ource {s}target LEFT RIGHT 0\r\n").await.unwrap();
    until_blocked(&mut nodes[0], 1).await;
    let mut next = Redis::connect(&cluster.nodes[2].front).await;
    next.0.write_all(b"BRPOP {s}ource 30\r\n").await.unwrap();
    until_blocked(&mut nodes[2], 1).await;
    drop(gone);
    until_blocked(&mut nodes[0], 0).await;
    nodes[1].says(b"LPUSH {s}ource z\r\n", ":1\r\n").await;
    next.says(b"", "*2\r\n$8\r\n{s}ource\r\n$1\r\nz\r\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_wait_at_another_node_are_in_nobodys_way() {
    const WAITING: usize = 400;
    let (cluster, mut nodes) = three().await;
    // At one node, which leads at most some of these.
    let mut waiting = Vec::new();
    for place in 0..WAITING {
        let mut redis = Redis::connect(&cluster.nodes[0].front).await;
        redis.0.write_all(format!("BLPOP queue-{} 0\r\n", place % 4).as_bytes()).await.unwrap();
        waiting.push(redis);
    }
    until_blocked(&mut nodes[0], WAITING).await;
    for node in &mut nodes {
        node.says(b"SET a 1\r\nSET b 2\r\nSET c 3\r\nGET a\r\n", "+OK\r\n+OK\r\n+OK\r\n$1\r\n1\r\n").await;
    }
    for place in 0..WAITING {
        let queue = place % 4;
        nodes[1].0.write_all(format!("RPUSH queue-{queue} e\r\n").as_bytes()).await.unwrap();
    }
    for (place, redis) in waiting.iter_mut().enumerate() {
        redis.says(b"", &format!("*2\r\n$7\r\nqueue-{}\r\n$1\r\ne\r\n", place % 4)).await;
    }
    until_blocked(&mut nodes[0], 0).await;
}

/// Returns when as many connections of a node wait.
async fn until_blocked(redis: &mut Redis, count: usize) {
    trimaran_tests::harness::until("it waits", async || {
        redis.0.write_all(b"INFO clients\r\n").await.unwrap();
        let mut answer = Vec::new();
        // Until the whole of the bulk string has come.
        while !answer.ends_with(b"\r\n\r\n") {
            let read = timeout(PATIENCE, redis.0.read_buf(&mut answer)).await.unwrap().unwrap();
            assert!(read > 0);
        }
        String::from_utf8_lossy(&answer).contains(&format!("blocked_clients:{count}\r\n"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_every_type_survive_the_death_of_every_process() {
    let mut cluster = Cluster::grid(3, "buffered", 2).await;
    let mut redis = Redis::connect(&cluster.nodes[0].front).await;
    let writes = "SET s v\r\nRPUSH l a b\r\nHSET h f 1 g 2\r\nSADD i 1 2\r\nSADD x a b\r\nZADD z 1 a 2.5 b\r\nPFADD p a b\r\n\
                  HEXPIRE h 1000 FIELDS 1 g\r\n";
    redis.says(writes.as_bytes(), "+OK\r\n:2\r\n:2\r\n:2\r\n:2\r\n:2\r\n:1\r\n*1\r\n:1\r\n").await;
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.until_complete().await;
    let mut redis = Redis::connect(&cluster.nodes[1].front).await;
    for (request, answer) in [
        ("GET s", "$1\r\nv\r\n"),
        ("LRANGE l 0 -1", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
        ("HGETALL h", "*4\r\n$1\r\nf\r\n$1\r\n1\r\n$1\r\ng\r\n$1\r\n2\r\n"),
        ("HTTL h FIELDS 1 f", "*1\r\n:-1\r\n"),
        ("SMEMBERS i", "*2\r\n$1\r\n1\r\n$1\r\n2\r\n"),
        ("SMEMBERS x", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
        ("ZRANGE z 0 -1 WITHSCORES", "*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$3\r\n2.5\r\n"),
        ("PFCOUNT p", ":2\r\n"),
    ] {
        redis.says(format!("{request}\r\n").as_bytes(), answer).await;
    }
}
