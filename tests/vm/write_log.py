"""Checks a dm-log-writes log: write_log.py LOG-DEVICE "MARK EXPECTATION... MARK" ...

Between the two marks of each argument the expectations must come in order:
  write:SECTOR   a write that begins at this sector
  flush          a flush after it
  stable         the write before was FUA itself, or a flush comes after it
The format of the log is that of drivers/md/dm-log-writes.c.
"""

import struct
import sys

FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
MAGIC = 0x6A736677736872


def entries(path):
    with open(path, "rb") as log:
        magic, _, count, sector_size = struct.unpack("<QQQI", log.read(28))
        assert magic == MAGIC, f"{path} is no dm-log-writes log"
        log.seek(sector_size)
        for _ in range(count):
            block = log.read(sector_size)
            sector, nr_sectors, flags, data_length = struct.unpack("<QQQQ", block[:32])
            if flags & MARK:
                yield "mark", block[32:32 + data_length].split(b"\0")[0].decode(), flags
                continue
            yield "write", sector, flags
            if not flags & DISCARD:
                log.seek(nr_sectors * 512, 1)


def matches(expectation, entry):
    _, sector, flags = entry
    if expectation.startswith("write:"):
        return sector == int(expectation[6:]) and not flags & DISCARD
    return bool(flags & FLUSH)


def check(log, words):
    begin, *expectations, end = words.split()
    part = log[log.index(("mark", begin, MARK)) + 1:log.index(("mark", end, MARK))]
    position = 0
    for expectation in expectations:
        if expectation == "stable" and part[position - 1][2] & FUA:
            continue
        found = [i for i in range(position, len(part)) if matches(expectation, part[i])]
        if not found:
            sys.exit(f"{words}: no {expectation} after entry {position} of {part}")
        position = found[0] + 1


def main():
    log = list(entries(sys.argv[1]))
    for words in sys.argv[2:]:
        check(log, words)


main()
