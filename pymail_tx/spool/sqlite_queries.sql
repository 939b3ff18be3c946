-- The named queries of spool/sqlite_tables.py.

-- name: new_epoch
UPDATE relay SET epoch = epoch + 1 RETURNING epoch;

-- name: accept_message
INSERT INTO messages (sender, accepted_at, size_bytes) VALUES (:sender, :now, :size_bytes) RETURNING id;

-- name: accept_content
INSERT INTO contents (message_id, content) VALUES (:message_id, :content);

-- name: accept_delivery
INSERT INTO deliveries (message_id, recipient, due_at) VALUES (:message_id, :recipient, :now);

-- One seek in deliveries_waiting for each lane, however much waits in it.
-- name: lanes
WITH RECURSIVE lanes (lane) AS (
    SELECT min(lane) FROM deliveries WHERE state = 'waiting'
    UNION ALL
    SELECT (SELECT min(lane) FROM deliveries WHERE state = 'waiting' AND lane > lanes.lane)
    FROM lanes WHERE lanes.lane IS NOT NULL
)
SELECT lane FROM lanes WHERE lane IS NOT NULL;

-- name: due_in_lane
SELECT due_at, message_id, size_bytes
FROM deliveries JOIN messages ON messages.id = message_id
WHERE state = 'waiting' AND lane = :lane AND due_at <= :now
ORDER BY due_at LIMIT :limit;

-- name: next_due_in_lane
SELECT min(due_at) FROM deliveries WHERE state = 'waiting' AND lane = :lane;

-- name: claim
UPDATE deliveries
SET state = 'claimed', epoch = :epoch, attempt = attempt + 1,
    due_at = :now + min(:first_s << min(interruptions, 20), :most_s)
WHERE message_id = :message_id AND state = 'waiting' AND due_at <= :now
  AND lane NOT IN (SELECT value FROM json_each(:busy))
RETURNING id, recipient, attempt;

-- name: claimed_message
SELECT sender, accepted_at, content FROM messages JOIN contents ON message_id = id WHERE id = :message_id;

-- name: defer
UPDATE deliveries SET state = 'waiting', epoch = NULL, due_at = :due_at, lane = :lane, interruptions = 0
WHERE id = :delivery_id AND state = 'claimed' AND epoch = :epoch
RETURNING message_id;

-- name: finish
UPDATE deliveries SET state = :state, epoch = NULL
WHERE id = :delivery_id AND state = 'claimed' AND epoch = :epoch
RETURNING message_id;

-- name: remove_finished
DELETE FROM messages WHERE id = :message_id
  AND NOT EXISTS (SELECT 1 FROM deliveries WHERE message_id = :message_id AND state IN ('waiting', 'claimed'));

-- Of a message just removed nothing is noted.
-- name: note
INSERT INTO events (message_id, delivery_id, at, what, words)
SELECT message_id, id, :now, :what, :words FROM deliveries WHERE id = :delivery_id;

-- name: give_back
UPDATE deliveries SET state = 'waiting', epoch = NULL, due_at = :due_at, lane = :lane, attempt = attempt - 1
WHERE id = :delivery_id AND state = 'claimed' AND epoch = :epoch;

-- name: release
UPDATE deliveries
SET state = 'waiting', epoch = NULL, attempt = attempt - 1, interruptions = interruptions + 1,
    due_at = :now + min(:first_s << min(interruptions, 20), :most_s)
WHERE state = 'claimed';
