"""Where a store can lie: a folder, a static HTTP server, object storage. Bytes by relative path, nothing about stores."""
