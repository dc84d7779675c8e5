"""`/v1/batches`: files of requests, answered by the server's own two stages when nobody waits for them."""
