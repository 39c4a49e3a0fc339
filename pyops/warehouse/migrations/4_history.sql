ALTER TABLE warehouse.pyops.cdc_offsets ADD COLUMN IF NOT EXISTS committed_lsn BIGINT;
ALTER TABLE warehouse.pyops.cdc_tables ADD COLUMN IF NOT EXISTS left_out VARCHAR[];
ALTER TABLE warehouse.pyops.cdc_tables ADD COLUMN IF NOT EXISTS leaves BIGINT[]
