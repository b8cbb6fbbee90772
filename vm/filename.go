// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"path"
	"strings"

	"github.com/vmstream/vmstream/disk"
)

// maxFileNameBytes is the longest file name a configuration can have.
const maxFileNameBytes = 4096

// NameForm is how a configuration writes the name of a file.
type NameForm uint8

// The forms of names.
const (
	NameRelative NameForm = iota + 1 // to the directory of the configuration
	NameAbsolute                     // a path of the host, also /vmfs/volumes/LABEL/...
	NameVolume                       // ESX 2.x: VOLUME:FILE, as in vmhba0:0:0:1:web01.vmdk
	NameWindows                      // with a drive letter or a server: C:\vm\x.vmdk, \\server\share\x.vmdk
)

// String returns the form's name in lower case.
func (f NameForm) String() string {
	switch f {
	case NameRelative:
		return "relative"
	case NameAbsolute:
		return "absolute"
	case NameVolume:
		return "volume"
	case NameWindows:
		return "windows"
	default:
		return "invalid"
	}
}

// FileName is a name of a file in a configuration and its parts. It belongs to
// the host that wrote it; the file need not exist here.
type FileName struct {
	Written string   // as in the configuration, decoded to UTF-8
	Form    NameForm // how it is written
	Volume  string   // VMFS volume (label, UUID or vmhbaA:T:L:P) or drive (C:), "" if none is named
	Dir     string   // directories, separated by slashes, without the volume; "" if there are none
	Base    string   // last component, never empty, "." or ".."

	// raw is the name in the bytes of the configuration: on a file system that
	// knows only bytes the file may be called just that.
	raw string
}

// ParseFileName takes apart a file name as found in a configuration. An empty
// name, one with a zero byte or longer than 4096 bytes, and one without a last
// component are errors.
func ParseFileName(s string) (FileName, error) {
	n, why := checkFileName(s)
	if why != "" {
		return FileName{}, configError("file name", -1, disk.ErrCorrupt, "%s", why)
	}
	return n, nil
}

func checkFileName(s string) (n FileName, why string) {
	if len(s) > maxFileNameBytes {
		return FileName{}, fmt.Sprintf("a name of %d bytes, the limit is %d", len(s), maxFileNameBytes)
	}
	n = splitFileName(s)
	n.Written, n.raw = s, s
	if n.Base == "" || n.Base == "." || n.Base == ".." || strings.IndexByte(s, 0) >= 0 {
		return FileName{}, fmt.Sprintf("%.80q is no name of a file", s)
	}
	return n, ""
}

func splitFileName(s string) FileName {
	var n FileName
	slashed := strings.ReplaceAll(s, `\`, "/")
	colon := strings.LastIndexByte(s, ':')
	switch {
	case strings.HasPrefix(s, "/"):
		n.Form = NameAbsolute
		n.Volume, s = cutVMFS(s)
	case len(s) > 2 && s[1] == ':' && slashed[2] == '/' && isLetter(s[0]):
		n.Form, n.Volume, s = NameWindows, s[:2], slashed[2:]
	case strings.HasPrefix(slashed, "//"):
		n.Form, s = NameWindows, slashed[2:]
	case colon > 0 && !strings.Contains(slashed, "/"):
		n.Form, n.Volume, s = NameVolume, s[:colon], s[colon+1:]
	default:
		n.Form, s = NameRelative, slashed
	}
	dir, base := path.Split(s)
	n.Dir, n.Base = strings.Trim(dir, "/"), base
	return n
}

// cutVMFS splits /vmfs/volumes/LABEL/rest, and /vmfs/VOLUME/rest as ESX 2.x has
// it, into the volume and /rest. Other paths come back whole.
func cutVMFS(s string) (volume, rest string) {
	tail, ok := strings.CutPrefix(s, "/vmfs/")
	if !ok || strings.HasPrefix(tail, "devices/") {
		return "", s
	}
	tail = strings.TrimPrefix(tail, "volumes/")
	i := strings.IndexByte(tail, '/')
	if i <= 0 {
		return "", s
	}
	return tail[:i], tail[i:]
}

func isLetter(b byte) bool { return 'a' <= b|0x20 && b|0x20 <= 'z' }

// esx2 reports if only ESX 2.x writes names like this one.
func (n FileName) esx2() bool {
	return n.Form == NameVolume ||
		n.Form == NameAbsolute && n.Volume != "" && !strings.HasPrefix(n.Written, "/vmfs/volumes/")
}
