# shellcheck shell=bash
# The VM of the demo. Sourced by demo.sh, whose functions it uses.

# make_files fills a directory with what is easy to recognise.
make_files() {
	local i
	mkdir -p "$1/etc" "$1/var/log" "$1/srv/data"
	echo web01 >"$1/etc/hostname"
	for i in {1..200}; do printf 'line %d of the log of web01\n' "$i"; done >"$1/var/log/messages"
	for i in {1..40}; do head -c $((i * 9973)) /dev/urandom >"$1/srv/data/file$i"; done
	head -c 3000000 /dev/zero >"$1/srv/data/zeros"
	(cd "$1" && find . -type f ! -name MANIFEST -print0 | sort -z | xargs -0 sha256sum >MANIFEST)
}

# make_disk writes disk.raw, 96 MiB.
make_disk() {
	truncate -s 96M disk.raw
	if have mkfs.ext4; then
		make_files tree
		run mkfs.ext4 -q -F -L web01 -d tree disk.raw
		ok "its disk has an ext4 file system with $(find tree -type f | wc -l) files"
		return
	fi
	note "the file system, there is no mkfs.ext4: the disk has a pattern instead"
	local i
	for i in 0 1 5 30 63 64 95; do
		head -c 700000 /dev/urandom | dd of=disk.raw bs=4096 seek=$((i * 256)) conv=notrunc status=none
	done
}

# make_vm writes vm/ and disk.raw, the content of its disk.
make_vm() {
	make_disk
	mkdir vm
	run "$vmstream" -q disk convert disk.raw vm/web01.vmdk --format sparse
	cat >vm/web01.vmx <<-'END'
		.encoding = "UTF-8"
		config.version = "8"
		virtualHW.version = "19"
		displayName = "web01"
		guestOS = "other4xlinux-64"
		memsize = "512"
		nvram = "web01.nvram"
		scsi0.present = "TRUE"
		scsi0.virtualDev = "lsilogic"
		scsi0:0.present = "TRUE"
		scsi0:0.fileName = "web01.vmdk"
	END
	head -c 8684 /dev/urandom >vm/web01.nvram
	echo 'web01: powered off' >vm/vmware.log
}

# check_files RAW reads the file system of a restored disk.
check_files() {
	[[ -d tree ]] || return 0
	if have e2fsck; then
		e2fsck -fn "$1" >/dev/null 2>&1
		ok "e2fsck finds its file system clean"
	fi
	if have debugfs; then
		mkdir files
		debugfs -R 'rdump / files' "$1" >/dev/null 2>&1
		(cd files && sha256sum -c --quiet MANIFEST)
		ok "every file in it has its digest"
	fi
}
