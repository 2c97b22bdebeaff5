//! The gRPC service: protobuf in, domain inside, one table of errors out.
