"""What every package stands on: settings and commands, folders and buckets, Ray. It knows no genes."""
