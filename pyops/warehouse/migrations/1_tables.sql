CREATE SCHEMA IF NOT EXISTS warehouse.pyops;
CREATE TABLE IF NOT EXISTS warehouse.pyops.runs (
    run_id VARCHAR NOT NULL, source VARCHAR, table_name VARCHAR, mode VARCHAR,
    write_pattern VARCHAR, status VARCHAR NOT NULL, started_at TIMESTAMP, finished_at TIMESTAMP,
    seconds DOUBLE, locked_seconds DOUBLE, rows_read BIGINT, rows_written BIGINT,
    rows_deleted BIGINT, rows_unchanged BIGINT, rows_dead_lettered BIGINT, null_cursors BIGINT,
    bytes_read BIGINT, lower_bound VARCHAR, upper_bound VARCHAR, load_id BIGINT, error VARCHAR,
    host VARCHAR, pid BIGINT
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.loads (
    load_id BIGINT NOT NULL, run_id VARCHAR NOT NULL, source VARCHAR NOT NULL,
    table_name VARCHAR NOT NULL, target VARCHAR NOT NULL, write_pattern VARCHAR NOT NULL,
    rows_written BIGINT NOT NULL, rows_deleted BIGINT NOT NULL, loaded_at TIMESTAMP NOT NULL
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.watermarks (
    source VARCHAR NOT NULL, table_name VARCHAR NOT NULL, cursor_column VARCHAR NOT NULL,
    bound VARCHAR, candidate VARCHAR, waiting_for VARCHAR[] NOT NULL, load_id BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.dead_letters (
    run_id VARCHAR NOT NULL, load_id BIGINT NOT NULL, source VARCHAR NOT NULL,
    table_name VARCHAR NOT NULL, key VARCHAR, column_name VARCHAR, value VARCHAR,
    reason VARCHAR NOT NULL, payload VARCHAR NOT NULL, recorded_at TIMESTAMP NOT NULL,
    letter_id BIGINT, file VARCHAR, line BIGINT, status VARCHAR DEFAULT 'open', resolved_by VARCHAR
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.files (
    source VARCHAR NOT NULL, table_name VARCHAR NOT NULL, file VARCHAR NOT NULL,
    size BIGINT NOT NULL, mtime_ns BIGINT NOT NULL, load_id BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.gate_results (
    run_id VARCHAR NOT NULL, source VARCHAR NOT NULL, table_name VARCHAR NOT NULL,
    gate VARCHAR NOT NULL, column_name VARCHAR NOT NULL, status VARCHAR NOT NULL, figure DOUBLE,
    threshold DOUBLE, failing_rows BIGINT, on_fail VARCHAR NOT NULL, query VARCHAR NOT NULL,
    message VARCHAR NOT NULL, checked_at TIMESTAMP NOT NULL
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.schema_changes (
    load_id BIGINT NOT NULL, source VARCHAR NOT NULL, table_name VARCHAR NOT NULL,
    kind VARCHAR NOT NULL, column_name VARCHAR NOT NULL, old_type VARCHAR NOT NULL,
    new_type VARCHAR NOT NULL, detected_at TIMESTAMP NOT NULL
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.cdc_offsets (
    source VARCHAR NOT NULL, generation INTEGER NOT NULL, status VARCHAR NOT NULL,
    slot VARCHAR NOT NULL, system_id VARCHAR NOT NULL, timeline INTEGER NOT NULL,
    publications MAP(VARCHAR, BIGINT) NOT NULL, lsn BIGINT, committed_at TIMESTAMP,
    caught_up_at TIMESTAMP, recorded_at TIMESTAMP NOT NULL
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.cdc_tables (
    source VARCHAR NOT NULL, table_name VARCHAR NOT NULL, generation INTEGER NOT NULL,
    relation_oid BIGINT NOT NULL, membership_oid BIGINT NOT NULL, columns VARCHAR[] NOT NULL,
    snapshot VARCHAR NOT NULL, snapshot_lsn BIGINT NOT NULL, handoff_lsn BIGINT NOT NULL,
    load_id BIGINT NOT NULL
);
CREATE TABLE IF NOT EXISTS warehouse.pyops.change_logs (
    source VARCHAR NOT NULL, table_name VARCHAR NOT NULL, key VARCHAR[] NOT NULL,
    compacted_generation INTEGER, compacted_lsn BIGINT
)
