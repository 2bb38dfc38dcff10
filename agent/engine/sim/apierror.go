package sim

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// apiError is an error answer in vLLM's shape.
type apiError struct {
	status  int
	kind    string
	param   string
	message string
}

// Error is the message.
func (e *apiError) Error() string { return e.message }

// body is the answer's JSON.
func (e *apiError) body() []byte {
	var param *string
	if e.param != "" {
		param = &e.param
	}
	type info struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    int     `json:"code"`
	}
	b, err := json.Marshal(map[string]info{"error": {e.message, e.kind, param, e.status}})
	if err != nil {
		panic(err) // plain values
	}
	return b
}

// badRequest is a value that cannot be served.
func badRequest(param, format string, args ...any) *apiError {
	return &apiError{http.StatusBadRequest, "BadRequestError", param, fmt.Sprintf(format, args...)}
}

// malformed is a body that cannot be read.
func malformed(format string, args ...any) *apiError {
	return &apiError{http.StatusBadRequest, http.StatusText(http.StatusBadRequest), "", fmt.Sprintf(format, args...)}
}

func unknownModel(name string) *apiError {
	return &apiError{http.StatusNotFound, "NotFoundError", "model", fmt.Sprintf("The model `%s` does not exist.", name)}
}

func unavailable(why string) *apiError {
	return &apiError{http.StatusServiceUnavailable, "ServiceUnavailableError", "", why}
}

func internalError(why string) *apiError {
	return &apiError{http.StatusInternalServerError, "InternalServerError", "", why}
}

// fail writes an error answer.
func fail(w http.ResponseWriter, e *apiError) {
	answerJSON(w, e.status, e.body())
}

func answerJSON(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that went away is nobody's error
}

// answerValue answers 200 with a value.
func answerValue(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		fail(w, internalError(err.Error()))
		return
	}
	answerJSON(w, http.StatusOK, b)
}
