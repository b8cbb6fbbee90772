#!/usr/bin/env python3
# Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0
"""Checks streams without compression, named on the command line, as docs/format.md says.

It shares no code with the rest; the test that runs it keeps the text honest. It
prints a line for each file: "ok" with the key and SHA-256 of each disk, or
"refused" and why. A file may have increments behind a stream. It holds all of
it, and disks up to 64 MiB, in memory.
"""
import base64
import hashlib
import json
import re
import struct
import sys
from datetime import datetime, timezone


def need(ok, what):
    if not ok:
        raise ValueError(what)


def sha(b):
    return hashlib.sha256(b).hexdigest()


def octal(n, digits):
    return b"%0*o\0" % (digits, n)


def fit(name):  # section 2: without bytes above 7F, cut to 100
    return bytes(c for c in name.encode() if c < 0x80)[:100]


def block(name, mode, size, mtime, kind, devices, prefix=b""):
    h = bytearray(512)
    h[0:len(name)] = name
    h[100:108], h[108:116], h[116:124] = octal(mode, 7), octal(0, 7), octal(0, 7)
    h[124:136], h[136:148] = octal(size, 11), octal(mtime, 11)
    h[156:157], h[257:265] = kind, b"ustar\00000"
    if devices:
        h[329:337] = h[337:345] = octal(0, 7)
    h[345:345 + len(prefix)] = prefix
    h[148:156] = b" " * 8
    h[148:156] = b"%06o\0 " % sum(h)
    return bytes(h)


def header(vm, own, mode, size, mtime):
    name = f"{vm}/{own}"
    large = size >= 8 << 30
    if name.isascii() and not large and len(name) <= 100:
        return block(name.encode(), mode, size, mtime, b"0", True)
    if name.isascii() and not large and len(vm) <= 155 and len(own) <= 100:
        return block(own.encode(), mode, size, mtime, b"0", True, vm.encode())
    records = b""
    values = [("path", name)] if not name.isascii() or len(name) > 100 else []
    for key, value in values + ([("size", str(size))] if large else []):
        rest = f" {key}={value}\n".encode()
        n = len(rest) + 1
        while len(str(n)) + len(rest) != n:
            n = len(str(n)) + len(rest)
        records += str(n).encode() + rest
    x = block(fit(f"{vm}/PaxHeaders.0/{own}"), 0, len(records), 0, b"x", False)
    return x + records.ljust(512, b"\0") + block(fit(name), mode, 0 if large else size, mtime, b"0", True)


def valid_name(s):
    b = s.encode()
    return 1 <= len(b) <= 255 and s not in (".", "..") and not re.search(r"[/\\\x00-\x1f\x7f-\x9f\ufffd]", s)


class Stream:
    def __init__(self, b):
        self.b, self.at, self.start = b, 0, 0

    def take(self, n):
        need(self.at + n <= len(self.b), "the stream ends early")
        self.at += n
        return self.b[self.at - n:self.at]

    def peek(self):
        """Returns name, mode, size, time and the bytes of the next header."""
        start = self.at
        h = self.take(512)
        need(any(h), "the tar ends early")
        name, size = None, None
        if h[156:157] == b"x":
            p, h = self.take(512), self.take(512)
            while p.strip(b"\0"):
                n = int(p.split(b" ", 1)[0])
                key, value = p[:n].split(b" ", 1)[1].rstrip(b"\n").split(b"=", 1)
                name = value.decode() if key == b"path" else name
                size = int(value) if key == b"size" else size
                need(0 < n <= len(p), "pax record")
                p = p[n:]
        need(h[156:157] == b"0", "no regular file")
        prefix = h[345:500].rstrip(b"\0")
        own = h[:100].split(b"\0")[0]
        name = name or (prefix + b"/" + own if prefix else own).decode()
        size = int(h[124:135], 8) if size is None else size
        raw, self.at = self.b[start:self.at], start
        return name, int(h[100:107], 8), size, int(h[136:147], 8), raw

    def member(self, vm):
        name, mode, size, mtime, raw = self.peek()
        need("/" in name and (vm is None or name.startswith(vm + "/")), "a member elsewhere")
        directory, own = name.split("/", 1) if vm is None else (vm, name[len(vm) + 1:])
        need(raw == header(directory, own, mode, size, mtime), "header of " + name)
        at = self.at - self.start
        self.take(len(raw))
        content = self.take(size)
        need(not any(self.take(-size % 512)), "padding of " + name)
        return {"dir": directory, "name": own, "mode": mode, "size": size, "time": mtime, "raw": raw, "content": content, "at": at}


def sectors_up(n, unit):
    return -(-n // unit)


def tables(cover, grain):
    t = sectors_up(cover, 512 * grain)
    d = sectors_up(4 * t, 512)
    r = 1 + d + 4 * t
    return t, d, r, sectors_up(r + d + 4 * t, 128) * 128


def metadata(cover, grain, entries):
    t, d, r, v = tables(cover, grain)
    zero = 1 in entries
    h = struct.pack("<4sIIQQQQIQQQB4sH", b"KDMV", 2 if zero else 1, 7 if zero else 3, cover, grain, 0, 0, 512, 1, r, v, 0, b"\n \r\n", 0)
    table = struct.pack("<%dI" % len(entries), *entries).ljust(4 * t * 512, b"\0")
    first = struct.pack("<%dI" % t, *(1 + d + 4 * i for i in range(t))).ljust(d * 512, b"\0")
    second = struct.pack("<%dI" % t, *(r + d + 4 * i for i in range(t))).ljust(d * 512, b"\0")
    return (h.ljust(512, b"\0") + first + table + second + table).ljust(v * 512, b"\0")


def extent(b, left, size, increment):
    """Returns how many bytes of disk an extent covers, if it is empty, grains, and what is zero."""
    need(len(b) >= 512, "extent")
    cover, grain = struct.unpack_from("<QQ", b, 12)
    covers = cover * 512
    need(0 < covers <= left and (covers == left or covers % size == 0) and grain in (128, 2048), "what an extent covers")
    n, (t, d, r, v) = sectors_up(cover, grain), tables(cover, grain)
    need(len(b) >= v * 512, "extent is short")
    entries = struct.unpack_from("<%dI" % n, b, (r + d) * 512)
    if grain == 2048:
        need(entries in ((0,) * n, (1,) * n) and b == metadata(cover, grain, entries), "empty extent")
        return covers, True, [], [(0, covers)] if entries[0] else []
    stored = [i for i in range(n) if entries[i] > 1]
    need(stored or increment and 0 in entries and 1 in entries, "an extent that should be an empty one")
    need(covers <= size and [entries[i] for i in stored] == [v + 128 * i for i in range(len(stored))], "order of grains")
    need(b[:v * 512] == metadata(cover, grain, entries) and len(b) == (v + 128 * len(stored)) * 512, "tables")
    grains = [(i * 65536, b[(v + 128 * k) * 512:(v + 128 * k + 128) * 512]) for k, i in enumerate(stored)]
    over = n * 65536 - covers
    need(entries[-1] < 2 or not over or not any(grains[-1][1][-over:]), "bytes behind the disk")
    return covers, False, grains, [(i * 65536, 65536) for i in range(n) if entries[i] == 1]


def descriptor(d, lines):
    hint = 'parentFileNameHint="%s"\n' % d["parent_file"] if d.get("parent_file") else ""
    long_id = hashlib.sha256(b"vmstream long content id\0" + d["cid"].encode() + b"\0" + d["key"].encode()).digest()[:12].hex() + d["cid"]
    g = d["geometry"]
    ddb = [("virtualHWVersion", d.get("hw_version")), ("adapterType", d["adapter"]), ("geometry.cylinders", g["cylinders"]), ("geometry.heads", g["heads"]),
           ("geometry.sectors", g["sectors"]), ("uuid", d.get("uuid")), ("longContentID", long_id)]
    ddb = [("ddb." + k, v) for k, v in ddb if v not in (None, "")] + [(e["key"], e["value"]) for e in d.get("ddb") or []]
    return ("# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=%s\nparentCID=%s\ncreateType=\"twoGbMaxExtentSparse\"\n%s\n# Extent description\n" % (d["cid"], d["parent_cid"], hint)
            + "".join('RW %d SPARSE "%s"\n' % x for x in lines) + "\n# The Disk Data Base\n#DDB\n\n" + "".join('%s = "%s"\n' % x for x in ddb)).encode()


ID = r"[0-9A-Za-z._:+-]{1,64}"


def check_opening(o, names):
    need(o["format"] == "vmstream/1", "format")
    depth, parent = o.get("depth", 0), o.get("parent_id", "")
    need(0 <= depth <= 999 and (depth > 0) == bool(parent) and (not parent or re.fullmatch(ID, parent)), "level")
    need(re.fullmatch(ID, o["id"]) and valid_name(o["name"]) and (not depth or o["name"].endswith("+%d" % depth)), "id or name")
    need(1 << 20 <= o["extent_bytes"] <= 1 << 30 and o["extent_bytes"] % 65536 == 0, "extent_bytes")
    need(len(o["disks"]) <= 1024 and len(o["files"]) <= 65536, "counts")
    keys = set()
    for f in o["files"]:
        need(valid_name(f["name"]) and f["name"] not in names and f["size_bytes"] >= 0, "file")
        names.add(f["name"])
    for d in o["disks"]:
        need(0 < len(d["key"].encode()) <= 64 and not re.search(r"[\x00-\x1f\x7f-\x9f]", d["key"]) and d["key"] not in keys, "key")
        need(valid_name(d["file"]) and d["file"].endswith(".vmdk") and len(d["file"].encode()) <= 239 and d["file"] not in names, "disk's file")
        need(isinstance(d["capacity_bytes"], int) and 0 < d["capacity_bytes"] <= 1 << 46 and d["allocated_bytes"] >= 0, "capacity")
        need(re.fullmatch("[0-9a-f]{8}", d["cid"]) and re.fullmatch("[0-9a-f]{8}", d["parent_cid"]), "content id")
        up = d.get("parent_file", "").split("/")
        whole = d["parent_cid"] == "ffffffff"
        need(up == [""] if whole else depth and len(up) == 3 and up[0] == ".." and valid_name(up[1]) and valid_name(up[2]) and up[2].endswith(".vmdk"), "parent")
        block = d.get("track_bytes", 0)
        need(not block or 1 << 16 <= block <= 1 << 26 and not block & (block - 1) and o["extent_bytes"] % block == 0, "track_bytes")
        keys.add(d["key"])
        names.add(d["file"])
    for d in o["disks"]:
        own = re.compile(re.escape(d["file"][:-5]) + r"-s[0-9]+\.vmdk")
        need(not any(own.fullmatch(n) for n in names), "a name that an extent could have")


def read_disk(o, d, take, below):
    """Returns the disk's content, None if it is not known, and its totals."""
    size, left, at, lines = o["extent_bytes"], -(-d["capacity_bytes"] // 512) * 512, 0, []
    total, increment = {"stored_bytes": 0, "extents": 0, "empty_extents": 0}, d["parent_cid"] != "ffffffff"
    disk = bytearray(below) if increment and below is not None else bytearray(left) if not increment and left <= 64 << 20 else None
    while left:
        m = take("%s-s%06d.vmdk" % (d["file"][:-5], at // size + 1), 0o600)
        covers, empty, grains, zeros = extent(m["content"], left, size, increment)
        lines.append((covers // 512, m["name"]))
        total["extents"] += 1
        total["empty_extents"] += empty
        total["stored_bytes"] += 65536 * len(grains)
        for off, b in [] if disk is None else grains + [(off, bytes(n)) for off, n in zeros]:
            b = b[:covers - off]
            disk[at + off:at + off + len(b)] = b
        at, left = at + covers, left - covers
    m = take(d["file"], 0o600)
    need(m["content"] == descriptor(d, lines), "descriptor")
    return disk, dict(total, key=d["key"], file=d["file"], capacity_bytes=d["capacity_bytes"])


def check_tracks(tracks, disks):
    """Checks the digests of blocks, of disks whose content is known one by one."""
    disks = [(d, b) for d, b in disks if d.get("track_bytes")]
    need(len(tracks) == len(disks), "number of tracked disks")
    for t, (d, content) in zip(tracks, disks):
        block, runs, digests = d["track_bytes"], t["runs"], base64.b64decode(t["digests"], validate=True)
        size = -(-d["capacity_bytes"] // 512) * 512
        need(t["key"] == d["key"] and base64.b64encode(digests).decode() == t["digests"] and len(runs) % 2 == 0, "digests of blocks")
        runs = list(zip(runs[::2], runs[1::2]))
        end = -1
        for first, n in runs:
            need(first > end and n > 0 and (first + n - 1) * block < size, "runs of blocks")
            end = first + n
        listed = [i for first, n in runs for i in range(first, first + n)]
        need(len(digests) == 16 * len(listed) and bytes(16) not in [digests[i:i + 16] for i in range(0, len(digests), 16)], "digests of blocks")
        if content is not None:
            blocks = [bytes(content[i:i + block]) for i in range(0, size, block)]
            need(listed == [i for i, b in enumerate(blocks) if any(b)], "blocks that are not zero")
            need(digests == b"".join(hashlib.sha256(blocks[i]).digest()[:16] for i in listed), "digests of blocks")


def check_index(m, o, found, totals, headers, disks):
    b, ix = m["content"], json.loads(m["content"])
    end = ix["end"]
    record = {"id": ix["id"], "tar_offset": "%020d" % m["at"], "size_bytes": "%020d" % len(b), "index_sha256": sha(b[:-512])}
    want = b'"end":' + json.dumps(dict(record, padding=""), separators=(",", ":")).encode()[:-2]
    need(len(b) % 512 == 0 and b[-512:] == want.ljust(512 - 4) + b'"}}\n', "end record")
    need(ix["format"] == "vmstream-index/1" and ix["id"] == o["id"] == end["id"] and ix["codec"] in ("none", "zstd", "lz4", "xz"), "index")
    need(len(ix["members"]) == len(found) and len(ix["disks"]) == len(totals), "length of the index")
    for w, f in zip(ix["members"], found):
        need((w["name"], w["tar_offset"], w["size_bytes"], w["sha256"]) == (f["name"], f["at"], f["size"], sha(f["content"])), "member of the index")
        need(ix["codec"] != "none" or w["frame_offset"] == w["tar_offset"] and not w.get("frames"), "frames without a codec")
    for w, t in zip(ix["disks"], totals):
        need(all(w[k] == v for k, v in t.items()), "totals")
    need(ix["sums_sha256"] == sha(found[-1]["content"]) and ix["headers_sha256"] == sha(headers), "digests of the index")
    check_tracks(ix.get("track") or [], list(zip(o["disks"], disks)))


def check_follows(o, before):
    need(o.get("depth", 0) == before["depth"] + 1 and o["parent_id"] == before["id"], "no increment on the stream before")
    for d in o["disks"]:
        below = [p for p in before["disks"] if p["key"] == d["key"]]
        need(d["parent_cid"] == "ffffffff" or below and (below[0]["capacity_bytes"], below[0]["cid"]) == (d["capacity_bytes"], d["parent_cid"]), "parent of a disk")


def check(b):
    s, before, state = Stream(b), None, {}
    while not before or s.at < len(b):
        before, state = check_stream(s, before, state)
    raw = lambda d: "-" if state[d["key"]] is None else sha(state[d["key"]][:d["capacity_bytes"]])
    return [d["key"] + " " + raw(d) for d in before["disks"]]


def check_stream(s, before, state):
    """Checks a stream, on the disks of the one before it; returns its opening record and its disks."""
    found, headers, s.start = [], b"", s.at
    need(s.peek()[2] <= 16 << 20, "length of the opening record")
    first = s.member(None)
    vm = first["dir"]
    o = json.loads(first["content"])
    need(first["name"] == "vmstream.json" and o["name"] == vm and o["format"], "opening record")
    if before:
        check_follows(o, before)
    check_opening(o, {"vmstream.json", "SHA256SUMS", "vmstream-index.json"})
    created = int(datetime.strptime(o["created"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp())

    def take(name, mode):
        nonlocal headers
        m = first if not found else s.member(vm)
        need(m["name"] == name and (mode is None or (m["mode"], m["time"]) == (mode, created)), "%r where %r belongs" % (m["name"], name))
        found.append(m)
        headers += m["raw"]
        return m

    take("vmstream.json", 0o644)
    for f in o["files"]:
        if s.peek()[0] == vm + "/" + f["name"]:
            take(f["name"], None)
    disks = [read_disk(o, d, take, state.get(d["key"])) for d in o["disks"]]
    sums = "".join("%s  %s\n" % (sha(m["content"]), m["name"]) for m in found).encode()
    need(take("SHA256SUMS", 0o644)["content"] == sums, "SHA256SUMS")
    proven, all_headers = list(found), headers
    m = take("vmstream-index.json", 0o644)
    check_index(m, o, proven, [total for _, total in disks], all_headers, [b for b, _ in disks])
    need(not any(s.take(1024)), "end of the tar")
    return dict(o, depth=o.get("depth", 0)), {d["key"]: b for d, (b, _) in zip(o["disks"], disks)}


if __name__ == "__main__":
    for path in sys.argv[1:]:
        try:
            with open(path, "rb") as stream:
                print("ok", " ".join(check(stream.read())), flush=True)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, struct.error, OverflowError) as e:
            print("refused:", ascii(str(e))[:200], flush=True)
