"""From a task's name to tokenised columns, batches and scores."""
