"""What passes between the rooms: one small file per contract, data and protocols only."""
