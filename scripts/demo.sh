#!/usr/bin/env bash
# A VM with a file system on its disk is backed up, restored with stock tools
# and with vmstream, and compared. Everything happens in a directory of its own,
# which is removed at the end. Steps whose tool is missing are left out and
# said so; any difference ends it with status 1.
#
# VMSTREAM is the program, bin/vmstream by default, built if it is not there.
set -Eeuo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin # mkfs.ext4, e2fsck and debugfs, for who is not root
vmstream=${VMSTREAM:-bin/vmstream}
[[ -x $vmstream ]] || make build
vmstream=$(realpath "$vmstream")
lib=$(realpath scripts/demo-vm.sh)

work=$(mktemp -d "${TMPDIR:-/tmp}/vmstream-demo.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'echo "demo: stopped in line $LINENO" >&2' ERR
cd "$work"

exec 3>&1 # what is being done is told here even where stdout is a stream
say() { printf '\n== %s\n' "$*"; }
ok() { printf '   ok: %s\n' "$*"; }
note() { printf '   left out: %s\n' "$*"; }
have() { command -v "$1" >/dev/null; }
run() {
	local words="$*"
	printf '   $ %s\n' "${words/#"$vmstream"/vmstream}" >&3
	"$@" 3>&-
}
# refuse COMMAND... succeeds if a command ends with exit code 4: damage found.
refuse() {
	local code=0
	"$@" >/dev/null 2>refused || code=$?
	if ((code != 4)); then
		echo "demo: exit code $code where 4 was due: $*" >&2
		cat refused >&2
		return 1
	fi
	tail -n 1 refused | cut -c 1-150 | sed 's/^/   /'
}
same() { # same FILE FILE WORDS
	cmp "$1" "$2"
	ok "$3"
}
# shellcheck source=scripts/demo-vm.sh
. "$lib"

say "A VM of 96 MiB: web01.vmx, nvram, a log and a VMDK"
make_vm

say "Back it up: a tar on stdout, and the same through zstd"
run "$vmstream" backup vm/web01.vmx >web01.tar
run "$vmstream" backup --codec zstd vm/web01.vmx >web01.tar.zst
printf '   %s bytes, with zstd %s; the disk has %s\n' \
	"$(stat -c %s web01.tar)" "$(stat -c %s web01.tar.zst)" "$(stat -c %s disk.raw)"

stock() { # stock DIR WORDS: compares what tar has extracted into DIR
	(cd "$1/web01" && sha256sum -c --quiet SHA256SUMS)
	ok "$2: sha256sum -c SHA256SUMS"
	cmp vm/web01.nvram "$1/web01/web01.nvram"
	cmp vm/vmware.log "$1/web01/vmware.log"
	ok "$2: nvram and log are the same"
	if have qemu-img; then
		qemu-img compare -f vmdk -F raw "$1/web01/web01.vmdk" disk.raw >/dev/null
		ok "$2: qemu-img compare finds the disk identical"
		qemu-img convert -f vmdk -O raw "$1/web01/web01.vmdk" "$1.raw"
		same "$1.raw" disk.raw "$2: qemu-img convert gives the disk back, byte for byte"
	else
		note "$2: comparing the disk, there is no qemu-img"
	fi
}

say "Restore it without vmstream"
mkdir stock stock-zstd
run tar -C stock -xf web01.tar
stock stock tar
if have zstd; then
	zstd -q -dc web01.tar.zst | tar -C stock-zstd -xf -
	stock stock-zstd "zstd | tar"
else
	note "zstd | tar, there is no zstd"
fi

say "Check the stream, and look what is in it"
run "$vmstream" verify <web01.tar
run "$vmstream" verify <web01.tar.zst
run "$vmstream" inspect <web01.tar

say "Restore it with vmstream"
mkdir restored split
run "$vmstream" restore -C restored --format raw <web01.tar.zst
cmp vm/web01.nvram restored/web01/web01.nvram
cmp vm/vmware.log restored/web01/vmware.log
raw=$(find restored/web01 -type f -size "$(stat -c %s disk.raw)"c)
same "$raw" disk.raw "the disk in $raw is the same, byte for byte"
run "$vmstream" restore --disk scsi0:0 --to - <web01.tar | cmp - disk.raw
ok "the disk through a pipe is the same"
run "$vmstream" restore -C split --format split <web01.tar
"$vmstream" -q disk convert split/web01/web01.vmdk split.raw --format raw
same split.raw disk.raw "restored as twoGbMaxExtentSparse, it is the same"
check_files "$raw"

say "Damage is found: each of these is refused with exit code 4"
size=$(stat -c %s web01.tar)
head -c $((size - 1)) web01.tar >damaged
refuse "$vmstream" verify <damaged
ok "cut by one byte"
cp web01.tar damaged
printf '\377' | dd of=damaged bs=1 seek=$((size / 2 + 77)) conv=notrunc status=none
cmp -s damaged web01.tar && printf '\000' | dd of=damaged bs=1 seek=$((size / 2 + 77)) conv=notrunc status=none
refuse "$vmstream" verify <damaged
ok "one byte changed"
mkdir refused-vm
refuse "$vmstream" restore -C refused-vm <damaged
[[ -z $(find refused-vm -name web01.vmdk -o -name web01.vmx) ]]
ok "and a restore of it leaves no file under its name"
cat web01.tar web01.tar.zst >damaged
refuse "$vmstream" verify <damaged
ok "something behind the end"

say "All of it is as it should be, in $SECONDS s"
