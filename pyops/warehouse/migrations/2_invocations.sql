ALTER TABLE warehouse.pyops.runs ADD COLUMN IF NOT EXISTS invocation_id VARCHAR;
CREATE TABLE IF NOT EXISTS warehouse.pyops.bookkeeping (version INTEGER NOT NULL)
