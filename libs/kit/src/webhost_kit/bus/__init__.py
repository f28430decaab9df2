"""NATS JetStream: the connection, the streams, commands, requests."""
