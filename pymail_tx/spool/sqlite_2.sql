-- The spool's tables, schema version 2. What each transition promises is told in spool/interface.py and
-- spool/administration.py.
--
--   waiting --claim--> claimed --record--> delivered | failed
--      ^  ^               |
--      |  +-- record deferred, release, give back
--      +--> held          an operator's hold, and release; from both also to cancelled
--
-- A message is removed, with all that hangs on it, once none of its deliveries is waiting, claimed or held.

BEGIN IMMEDIATE;

PRAGMA user_version = 2;

-- What version 1 left, see sqlite_1.sql; copied and dropped at the end. Indexes keep their names, so they go first.
DROP INDEX deliveries_of_message;
DROP INDEX deliveries_waiting;
DROP INDEX deliveries_claimed;
DROP INDEX events_of_message;
ALTER TABLE messages RENAME TO messages_1;
ALTER TABLE deliveries RENAME TO deliveries_1;
ALTER TABLE events RENAME TO events_1;

-- Who opened the spool to relay from it, and the number of the last opening. A claim carries both.
CREATE TABLE relays (
    name  TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;

-- Numbers are never used twice: logs name them, and a late record must not meet a newer delivery.
CREATE TABLE messages (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    sender      TEXT NOT NULL DEFAULT '',  -- '' for a bounce
    envid       TEXT,
    ret         TEXT,
    requiretls  INTEGER NOT NULL DEFAULT 0,
    smtputf8    INTEGER NOT NULL DEFAULT 0,
    submitter   TEXT NOT NULL DEFAULT '',  -- who handed it in, '' for the relay itself
    accepted_at REAL,                      -- NULL while its content comes in; all times are seconds since POSIX's epoch
    size_bytes  INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX messages_coming_in ON messages (id) WHERE accepted_at IS NULL;

-- Content in parts of 65,536 octets, the last one shorter. The id is message * 2^20 + number of the part: so a content
-- is a range of the table, and needs no index.
CREATE TABLE parts (
    id     INTEGER PRIMARY KEY,
    octets BLOB NOT NULL
) STRICT;

CREATE TABLE deliveries (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id    INTEGER NOT NULL REFERENCES messages ON DELETE CASCADE,
    recipient     TEXT NOT NULL,
    domain        TEXT NOT NULL COLLATE NOCASE,  -- the recipient's
    notify        TEXT,                          -- words with commas, as in RCPT
    orcpt         TEXT,
    state         TEXT NOT NULL DEFAULT 'waiting',
    due_at        REAL,                        -- while claimed: when to try again if this attempt is interrupted;
                                               -- NULL once it has ended
    lane          TEXT NOT NULL DEFAULT '',    -- where it went last: a hint for claim, '' before any
    attempt       INTEGER NOT NULL DEFAULT 0,  -- how many were made, the one under way included
    interruptions INTEGER NOT NULL DEFAULT 0,  -- how often in a row an attempt had no end
    warned        INTEGER NOT NULL DEFAULT 0,  -- its sender knows of the delay
    ended_at      REAL,                        -- the last attempt that had an end: when, with whom,
    host          TEXT,
    port          INTEGER,
    tls           TEXT NOT NULL DEFAULT '',
    why           TEXT NOT NULL DEFAULT '',    -- what was said,
    uncertain     INTEGER NOT NULL DEFAULT 0,  -- and whether it may have been delivered all the same
    target        TEXT NOT NULL DEFAULT '',    -- where an operator routed it
    wish          TEXT,                        -- an operator's, for when the attempt is over: hold, cancel or bounce
    wish_words    TEXT NOT NULL DEFAULT '',    -- why
    owner         TEXT,                        -- whose claim it is: the relay's name
    epoch         INTEGER,                     -- and its opening
    -- Written out, since SQLite makes a table for each IN of three or more, at each statement.
    CHECK (iif(
        due_at IS NULL,
        state = 'delivered' OR state = 'failed' OR state = 'cancelled',
        state = 'waiting' OR state = 'claimed' OR state = 'held'
    )),
    CHECK (wish IS NULL OR wish = 'hold' OR wish = 'cancel' OR wish = 'bounce'),
    CHECK ((state = 'claimed') = (epoch IS NOT NULL)),
    CHECK ((owner IS NULL) = (epoch IS NULL))
) STRICT;

-- What happened to the deliveries of messages that are here. The retry plan bounds their number.
CREATE TABLE events (
    id          INTEGER PRIMARY KEY,
    message_id  INTEGER NOT NULL,
    delivery_id INTEGER NOT NULL,
    recipient   TEXT NOT NULL,
    at          REAL NOT NULL,
    what        TEXT NOT NULL,
    attempt     INTEGER NOT NULL,
    host        TEXT,
    port        INTEGER,
    tls         TEXT NOT NULL DEFAULT '',
    words       TEXT NOT NULL,
    uncertain   INTEGER NOT NULL DEFAULT 0
) STRICT;

-- The same of messages that are gone; see MAX_HISTORY and HISTORY_S. Few enough to be looked through without an index.
CREATE TABLE history (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id  INTEGER NOT NULL,
    delivery_id INTEGER NOT NULL,
    recipient   TEXT NOT NULL,
    at          REAL NOT NULL,
    what        TEXT NOT NULL,
    attempt     INTEGER NOT NULL,
    host        TEXT,
    port        INTEGER,
    tls         TEXT NOT NULL DEFAULT '',
    words       TEXT NOT NULL,
    uncertain   INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Keys of hand-ins. A message's end sets the end of its key.
CREATE TABLE keys (
    submitter   TEXT NOT NULL,
    key         TEXT NOT NULL,
    message_id  INTEGER NOT NULL,
    fingerprint BLOB NOT NULL,  -- of all that must be the same again
    expires_at  REAL,           -- NULL as long as the message is here
    PRIMARY KEY (submitter, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX keys_of_message ON keys (message_id);
CREATE INDEX keys_expiring ON keys (expires_at) WHERE expires_at IS NOT NULL;

-- MTA-STS (RFC 8461): the last policy of each domain that had one.
CREATE TABLE policies (
    domain     TEXT PRIMARY KEY,
    policy_id  TEXT NOT NULL,
    fetched_at REAL NOT NULL,
    used_at    REAL NOT NULL,
    refresh_at REAL NOT NULL,
    policy     TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX policies_to_refresh ON policies (refresh_at);

INSERT INTO relays (name, epoch) SELECT 'relay', epoch FROM relay;

INSERT INTO sqlite_sequence (name, seq)
SELECT replace(name, '_1', ''), seq FROM sqlite_sequence WHERE name IN ('messages_1', 'deliveries_1');

INSERT INTO messages (id, sender, accepted_at, size_bytes)
SELECT id, sender, accepted_at, size_bytes FROM messages_1;

INSERT INTO parts (id, octets)
WITH RECURSIVE numbers (message_id, number) AS (
    SELECT message_id, 0 FROM contents
    UNION ALL
    SELECT message_id, number + 1 FROM numbers
    WHERE (number + 1) * 65536 < (SELECT size_bytes FROM messages_1 WHERE id = message_id)
)
SELECT (numbers.message_id << 20) + number, substr(content, number * 65536 + 1, 65536)
FROM numbers JOIN contents ON contents.message_id = numbers.message_id;

-- The domain stands behind the last @: what remains once everything that is no @ is taken from the right end.
INSERT INTO deliveries (
    id, message_id, recipient, domain, state, due_at, lane, attempt, interruptions, owner, epoch
)
SELECT id, message_id, recipient,
       iif(instr(recipient, '@'), replace(recipient, rtrim(recipient, replace(recipient, '@', '')), ''), ''),
       state, iif(state IN ('waiting', 'claimed'), due_at, NULL), lane, attempt, interruptions, iif(epoch IS NULL, NULL, 'relay'), epoch
FROM deliveries_1;

INSERT INTO events (message_id, delivery_id, recipient, at, what, attempt, words)
SELECT events_1.message_id, delivery_id, recipient, at, what, 0, words
FROM events_1 JOIN deliveries_1 ON deliveries_1.id = delivery_id ORDER BY events_1.id;

UPDATE deliveries SET why = ifnull((SELECT words FROM events WHERE delivery_id = deliveries.id ORDER BY id DESC LIMIT 1), '');

DROP TABLE events_1;
DROP TABLE deliveries_1;
DROP TABLE contents;
DROP TABLE messages_1;
DROP TABLE relay;

CREATE INDEX deliveries_of_message ON deliveries (message_id);
CREATE INDEX deliveries_waiting ON deliveries (lane, due_at) WHERE state = 'waiting';
CREATE INDEX deliveries_claimed ON deliveries (id) WHERE state = 'claimed';
CREATE INDEX events_of_message ON events (message_id);

-- An attempt has ended, or an operator ended the delivery. That is noted, and the message removed if nobody waits for it
-- any more. What is given back or released never was an attempt: its number goes down again.
-- Deliveries end in the order of their ids, mostly, so one that is open is sought from the other end.
CREATE TRIGGER delivery_ended AFTER UPDATE OF state ON deliveries
WHEN NEW.state = 'cancelled' OR (OLD.state = 'claimed' AND NEW.state <> 'claimed' AND NEW.attempt = OLD.attempt)
BEGIN
    DELETE FROM messages WHERE id = NEW.message_id AND (
        SELECT id FROM deliveries WHERE message_id = NEW.message_id AND due_at IS NOT NULL ORDER BY id DESC LIMIT 1
    ) IS NULL;
    INSERT INTO events (message_id, delivery_id, recipient, at, what, attempt, host, port, tls, words, uncertain)
    SELECT NEW.message_id, NEW.id, NEW.recipient, NEW.ended_at,
           iif(NEW.due_at IS NULL, NEW.state, 'deferred'),
           NEW.attempt, NEW.host, NEW.port, NEW.tls, NEW.why, NEW.uncertain
    FROM messages WHERE id = NEW.message_id;
    INSERT INTO history (message_id, delivery_id, recipient, at, what, attempt, host, port, tls, words, uncertain)
    SELECT NEW.message_id, NEW.id, NEW.recipient, NEW.ended_at, NEW.state,
           NEW.attempt, NEW.host, NEW.port, NEW.tls, NEW.why, NEW.uncertain
    WHERE NOT EXISTS (SELECT 1 FROM messages WHERE id = NEW.message_id);
    UPDATE keys SET expires_at = NEW.ended_at + 86400  -- KEY_LIFE_S
    WHERE message_id = NEW.message_id AND NOT EXISTS (SELECT 1 FROM messages WHERE id = NEW.message_id);
END;

-- What hangs on a message, but for its deliveries, which go by themselves.
CREATE TRIGGER message_removed AFTER DELETE ON messages
BEGIN
    DELETE FROM parts WHERE id BETWEEN OLD.id << 20 AND (OLD.id << 20) + 0xFFFFF;
    INSERT INTO history (message_id, delivery_id, recipient, at, what, attempt, host, port, tls, words, uncertain)
    SELECT message_id, delivery_id, recipient, at, what, attempt, host, port, tls, words, uncertain
    FROM events WHERE message_id = OLD.id ORDER BY id;
    DELETE FROM events WHERE message_id = OLD.id;
END;

COMMIT;
