"""Sources of tables: a folder for each kind, whose ``read.Tables`` is its ``protocol.Source``."""
