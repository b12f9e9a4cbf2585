//! How functions are called, one file a protocol: decode, one call to the router, encode.

pub(crate) mod grpc;
pub(crate) mod http;
