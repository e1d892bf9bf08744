"""The harness: configuration, engine, metrics, cluster, tracking, jobs and leaderboard (docs/architecture.md)."""
