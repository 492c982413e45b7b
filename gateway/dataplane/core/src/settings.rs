//! What the data plane is told at its start; of this, [`Limits`](crate::limits::Limits) may change later.

/// Settings of one data plane; `gateway.bridge.Settings` has the same fields.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address to listen on, such as `0.0.0.0`.
    pub host: String,
    /// Port to listen on; 0 for a free one.
    pub port: u16,
    /// Worker threads, at least 1.
    pub threads: usize,
    /// Longest message in bytes, as it is on the wire and inflated.
    pub max_message: usize,
    /// Concurrent streams on one client connection.
    pub max_streams: u32,
    /// Bytes of a request's header list.
    pub max_header_list: u32,
    /// Bytes of one frame that clients may send.
    pub max_frame: u32,
    /// Client connections in all.
    pub max_connections: usize,
    /// Connections of one thread to one backend.
    pub upstream_connections: usize,
    /// Requests of one model that may wait for a load, and of one version for a place at its backends.
    pub queue_per_model: usize,
    /// Deadline of unary calls that bring none, in milliseconds; 0 for none.
    pub default_deadline_ms: u64,
    /// Time for the connection preface and for each block of headers, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// Time after which a connection with nothing open is closed, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Most that a message may grow by being inflated.
    pub inflate_ratio: usize,
    /// Groups (`repository`, `shared_memory`, `trace`, `log`) or method names that are open to clients.
    pub allow: Vec<String>,
    /// What `ServerMetadata` says; clients of Triton insist on `triton`.
    pub server_name: String,
    /// Version in `ServerMetadata`.
    pub server_version: String,
    /// Longest message in bytes that is kept to be sent again.
    pub replay: usize,
    /// Time for which a client may leave an answer untaken, in milliseconds.
    pub answer_timeout_ms: u64,
    /// Streams that a client connection may reset within a second.
    pub resets_per_second: u32,
    /// Client connections from one address; 0 for no bound.
    pub connections_per_address: usize,
    /// Time after which a connection is told to go away and come back, in milliseconds; 0 for never.
    pub max_connection_age_ms: u64,
    /// Certificate chain in PEM; empty for plaintext.
    pub tls_cert: Vec<u8>,
    /// Its private key in PEM.
    pub tls_key: Secret,
    /// Certificates in PEM that those of clients must lead to; empty where clients need none.
    pub tls_client_ca: Vec<u8>,
    /// Copies for shadows that wait in one thread.
    pub shadow_queue: usize,
    /// Copies for shadows that one thread has under way.
    pub shadow_concurrency: usize,
    /// Bytes of requests and answers that the copies of one thread hold.
    pub shadow_bytes: usize,
    /// Time that a copy may take, waiting included, in milliseconds.
    pub shadow_deadline_ms: u64,
    /// How late a thread may be before it gives its copies up, in milliseconds.
    pub shadow_lag_ms: u64,
    /// Share of its time beyond which a busy thread gives its copies up, in percent.
    pub shadow_busy_percent: u32,
    /// Streams towards one backend that are reset within a second, because nobody wants their answer.
    pub cancels_per_second: usize,
    /// Bytes of requests that all threads together hold.
    pub max_buffered: usize,
    /// Address to listen on for the REST protocol; empty where it is not served.
    pub http_host: String,
    /// Port for it; 0 for a free one.
    pub http_port: u16,
}

/// Bytes that are not shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 0,
            threads: 1,
            max_message: 64 << 20,
            max_streams: 256,
            max_header_list: 16 << 10,
            max_frame: 64 << 10,
            max_connections: 20_000,
            upstream_connections: 4,
            queue_per_model: 256,
            default_deadline_ms: 30_000,
            handshake_timeout_ms: 10_000,
            idle_timeout_ms: 300_000,
            inflate_ratio: 100,
            allow: Vec::new(),
            server_name: "triton".to_owned(),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            replay: 1 << 20,
            answer_timeout_ms: 30_000,
            resets_per_second: 200,
            connections_per_address: 0,
            max_connection_age_ms: 0,
            tls_cert: Vec::new(),
            tls_key: Secret::default(),
            tls_client_ca: Vec::new(),
            shadow_queue: 256,
            shadow_concurrency: 16,
            shadow_bytes: 16 << 20,
            shadow_deadline_ms: 10_000,
            shadow_lag_ms: 50,
            shadow_busy_percent: 80,
            cancels_per_second: 2_000,
            max_buffered: 1 << 30,
            http_host: String::new(),
            http_port: 0,
        }
    }
}
