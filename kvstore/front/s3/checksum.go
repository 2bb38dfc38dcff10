package s3

import (
	"bytes"
	"crypto/md5"  //nolint:gosec // what S3 clients send
	"crypto/sha1" //nolint:gosec // what S3 clients send
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash/crc32"
	"hash/crc64"
	"net/http"

	"github.com/penstock/penstock/kvstore"
)

// nvme is CRC-64/NVME in the reflected form that hash/crc64 wants.
var nvme = crc64.MakeTable(0x9A6C9329AC4BC9B5)

// checksum is one that a client has sent for its bytes.
type checksum struct {
	name string
	want []byte
	sum  func([]byte) []byte
}

var algorithms = map[string]func([]byte) []byte{
	"Content-Md5":              func(b []byte) []byte { s := md5.Sum(b); return s[:] }, //nolint:gosec // as above
	"X-Amz-Checksum-Crc32":     func(b []byte) []byte { return binary.BigEndian.AppendUint32(nil, crc32.ChecksumIEEE(b)) },
	"X-Amz-Checksum-Crc32c":    func(b []byte) []byte { return binary.BigEndian.AppendUint32(nil, kvstore.Checksum(b)) },
	"X-Amz-Checksum-Crc64nvme": func(b []byte) []byte { return binary.BigEndian.AppendUint64(nil, crc64.Checksum(b, nvme)) },
	"X-Amz-Checksum-Sha1":      func(b []byte) []byte { s := sha1.Sum(b); return s[:] }, //nolint:gosec // as above
	"X-Amz-Checksum-Sha256":    func(b []byte) []byte { s := sha256.Sum256(b); return s[:] },
}

// checksums are those in a head or in trailers. A kind that is not known here is left alone: the store has its own.
func checksums(h http.Header) (all []checksum, bad *apiError) {
	for name, sum := range algorithms {
		v := h.Get(name)
		if v == "" {
			continue
		}
		want, err := base64.StdEncoding.DecodeString(v)
		if err != nil {
			return nil, &apiError{http.StatusBadRequest, "InvalidDigest", name + " is not base64"}
		}
		all = append(all, checksum{name, want, sum})
	}
	return all, nil
}

func (c checksum) check(b []byte) *apiError {
	if bytes.Equal(c.sum(b), c.want) {
		return nil
	}
	return &apiError{http.StatusBadRequest, "BadDigest", "the body does not have the checksum that " + c.name + " says"}
}
