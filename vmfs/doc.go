// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package vmfs reads VMFS-3, VMFS-5 and VMFS-6 volumes from LUNs, snapshots of LUNs
// and images of them, without any ESX host. A volume lies on 1 to 32 devices and is
// read-only here, whoever else uses it: see [FS.Heartbeats] and [Lock].
//
// An [FS] is an io/fs.FS. Its files also tell where their bytes are ([File.Extents]),
// so that holes, blocks that ESX has yet to zero, and what was never allocated are not
// read at all.
//
// VMware has not published the format. What is known comes from public reverse
// engineering and from volumes that ESX hosts have made. Everything read is
// checked before it is used; what does not fit is an error for which errors.Is finds
// [disk.ErrCorrupt], [disk.ErrTruncated] or [disk.ErrUnsupported], with the device and
// the offset.
package vmfs
