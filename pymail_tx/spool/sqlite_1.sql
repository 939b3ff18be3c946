-- The spool's tables, schema version 1. What each transition promises is told in spool/interface.py.
--
--   waiting --claim--> claimed --record--> delivered | failed
--      ^                  |
--      +-- record deferred, release, give back --+
--
-- A message is removed, with all that hangs on it, once none of its deliveries is waiting or claimed.

BEGIN IMMEDIATE;

PRAGMA application_id = 0x504D5458;  -- "PMTX": told apart from other programs' databases
PRAGMA user_version = 1;

-- One row. The epoch grows with each opening; a claim carries the one it was made in.
CREATE TABLE relay (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    epoch    INTEGER NOT NULL
) STRICT;

INSERT INTO relay VALUES (1, 0);

-- Numbers are never used twice: logs name them, and a late record must not meet a newer delivery.
CREATE TABLE messages (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    sender      TEXT NOT NULL,  -- '' for a bounce
    accepted_at REAL NOT NULL,  -- all times are seconds since the epoch of POSIX
    size_bytes  INTEGER NOT NULL
) STRICT;

-- Apart from messages, so that looking through them does not read the content's pages.
CREATE TABLE contents (
    message_id INTEGER PRIMARY KEY REFERENCES messages ON DELETE CASCADE,
    content    BLOB NOT NULL
) STRICT;

CREATE TABLE deliveries (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id    INTEGER NOT NULL REFERENCES messages ON DELETE CASCADE,
    recipient     TEXT NOT NULL,
    state         TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'claimed', 'delivered', 'failed')),
    due_at        REAL NOT NULL,               -- while claimed: when to try again if this attempt is interrupted
    lane          TEXT NOT NULL DEFAULT '',    -- which courier took it last: a hint for claim, '' before any
    attempt       INTEGER NOT NULL DEFAULT 0,  -- how many were made, the one under way included
    interruptions INTEGER NOT NULL DEFAULT 0,  -- how often in a row an attempt had no end
    epoch         INTEGER,                     -- whose claim it is
    CHECK ((state = 'claimed') = (epoch IS NOT NULL))
) STRICT;

CREATE INDEX deliveries_of_message ON deliveries (message_id);
CREATE INDEX deliveries_waiting ON deliveries (lane, due_at) WHERE state = 'waiting';
CREATE INDEX deliveries_claimed ON deliveries (id) WHERE state = 'claimed';

-- Why a delivery waits. The retry plan bounds their number, the message's removal their age.
CREATE TABLE events (
    id          INTEGER PRIMARY KEY,
    message_id  INTEGER NOT NULL REFERENCES messages ON DELETE CASCADE,
    delivery_id INTEGER NOT NULL,
    at          REAL NOT NULL,
    what        TEXT NOT NULL CHECK (what IN ('deferred', 'delivered', 'failed')),
    words       TEXT NOT NULL
) STRICT;

CREATE INDEX events_of_message ON events (message_id);

COMMIT;
