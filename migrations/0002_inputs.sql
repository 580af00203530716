-- Which epochs of other pipelines' results a checkpoint continues from, as JSON: those must be kept for it.
ALTER TABLE laminar_checkpoint ADD COLUMN inputs TEXT NOT NULL DEFAULT '[]';
