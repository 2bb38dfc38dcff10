package s3

import (
	"encoding/xml"
	"net/http"
	"strconv"
)

// apiError is an answer in S3's form. Codes are S3's own, so that clients know them.
type apiError struct {
	status        int
	code, message string
}

// Error is the message, with its code.
func (e *apiError) Error() string { return e.code + ": " + e.message }

func errAccess(why string) *apiError {
	return &apiError{http.StatusForbidden, "AccessDenied", why}
}

func errArgument(why string) *apiError {
	return &apiError{http.StatusBadRequest, "InvalidArgument", why}
}

var (
	errNoKey       = &apiError{http.StatusNotFound, "NoSuchKey", "there is no such object, or no longer"}
	errNoUpload    = &apiError{http.StatusNotFound, "NoSuchUpload", "there is no such upload, or no longer"}
	errTooLarge    = &apiError{http.StatusBadRequest, "EntityTooLarge", "the object is larger than the door takes"}
	errFull        = &apiError{http.StatusInsufficientStorage, "InsufficientStorage", "there is no room for the object; as in any cache it is not kept"}
	errNameTooLong = &apiError{http.StatusBadRequest, "KeyTooLongError", "the name of the bucket or the object is too long"}
	errNoLength    = &apiError{http.StatusLengthRequired, "MissingContentLength", "the body's length must be said"}
	errNotHere     = &apiError{http.StatusNotImplemented, "NotImplemented", "this door has GET, HEAD, PUT, DELETE, multipart uploads and ListObjectsV2 only"}
)

func writeError(w http.ResponseWriter, r *http.Request, e *apiError) {
	if r.Method == http.MethodHead {
		w.WriteHeader(e.status)
		return
	}
	writeXML(w, e.status, struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}{Code: e.code, Message: e.message})
}

func writeXML(w http.ResponseWriter, status int, v any) {
	b, err := xml.Marshal(v)
	if err != nil { // no such value is written
		panic(err)
	}
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Content-Length", strconv.Itoa(len(xml.Header)+len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(append([]byte(xml.Header), b...))
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
