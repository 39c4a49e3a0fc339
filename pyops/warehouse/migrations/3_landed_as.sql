ALTER TABLE warehouse.pyops.loads ADD COLUMN IF NOT EXISTS landed_as VARCHAR;
