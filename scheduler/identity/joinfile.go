package identity

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/penstock/penstock/scheduler/statefile"
)

const maxJoinFile = 256 << 10

// JoinFile is what an agent needs to find its controller and to prove which launch it belongs to. It lies in the state
// folder, 0600, and its path (never its content) is in the job.
type JoinFile struct {
	Format       int      `json:"format"` // 1; set by WriteJoinFile
	Launch       string   `json:"launch"`
	Deployment   string   `json:"deployment,omitempty"` // in place of Launch: any run that its cluster has started of it
	Token        string   `json:"token"`                // secret
	EndpointFile string   `json:"endpoint_file"`        // read again and again: the controller may move
	Controllers  []string `json:"controllers"`          // https://host:port, used where the endpoint file cannot be read
	CAPEM        string   `json:"ca_pem"`
	Installation string   `json:"installation"`
}

const joinFormat = 1

// WriteJoinFile writes the file whole, 0600, in place of an older one.
func WriteJoinFile(path string, j JoinFile) error {
	data, err := EncodeJoinFile(j)
	if err != nil {
		return fmt.Errorf("write join file %s: %w", path, err)
	}
	if err := statefile.Write(statefile.OS{}, path, data); err != nil {
		return fmt.Errorf("write join file: %w", err)
	}
	return nil
}

// EncodeJoinFile is a join file's content, for where it is not a file yet.
func EncodeJoinFile(j JoinFile) ([]byte, error) {
	j.Format = joinFormat
	if err := j.validate(); err != nil {
		return nil, err
	}
	data, err := json.MarshalIndent(j, "", "  ")
	return append(data, '\n'), err
}

// ReadJoinFile reads and checks a join file: of this user, closed to everybody else, no link, complete.
func ReadJoinFile(path string) (JoinFile, error) {
	data, err := statefile.ReadPrivate(path, maxJoinFile)
	if err != nil {
		return JoinFile{}, fmt.Errorf("join file: %w", err)
	}
	j, err := parseJoinFile(data)
	if err != nil {
		return JoinFile{}, fmt.Errorf("join file %s: %w", path, err)
	}
	return j, nil
}

func parseJoinFile(data []byte) (JoinFile, error) {
	var j JoinFile
	if err := json.Unmarshal(data, &j); err != nil {
		return JoinFile{}, err
	}
	if j.Format != joinFormat {
		return JoinFile{}, fmt.Errorf("format %d, this release reads %d: the controller and the agent are of different releases", j.Format, joinFormat)
	}
	return j, j.validate()
}

func (j JoinFile) validate() error {
	switch {
	case j.Launch != "" && j.Deployment != "":
		return fmt.Errorf("it names launch %q and deployment %q, and is for one of them", j.Launch, j.Deployment)
	case j.Deployment != "" && !validPart(j.Deployment):
		return fmt.Errorf("deployment %q is no name of one", j.Deployment)
	case j.Deployment == "" && !validPart(j.Launch):
		return fmt.Errorf("launch %q is not a launch token", j.Launch)
	case j.Token == "":
		return errors.New("it has no token")
	case !validInstallation(j.Installation):
		return fmt.Errorf("installation %q is not 32 hexadecimal digits", j.Installation)
	case j.EndpointFile == "" && len(j.Controllers) == 0:
		return errors.New("it names neither an endpoint file nor a controller")
	}
	for _, c := range j.Controllers {
		if err := checkURL(c); err != nil {
			return err
		}
	}
	_, err := PoolFromPEM([]byte(j.CAPEM))
	return err
}
