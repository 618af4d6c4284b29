"""The services that run on this machine: an object store, a tracking server and a Ray head."""
