package identity

import (
	"errors"
	"fmt"
	"slices"

	apiv1 "github.com/penstock/penstock/scheduler/api/v1"
)

// ErrNotAllowed means that the caller's role may not make this call.
var ErrNotAllowed = errors.New("not allowed")

// callers says who may make which call. A call that is not in it is nobody's. Calls of Nobody need no certificate: they
// bring a token. The command line comes in over the controller's unix socket, where the socket's folder and the peer's
// uid stand for the role CLI, or with a certificate of that role.
var callers = map[string][]Role{
	apiv1.AgentServiceJoinProcedure:   {Nobody, Agent},
	apiv1.AgentServiceRenewProcedure:  {Agent},
	apiv1.AgentServiceReportProcedure: {Agent},

	apiv1.GatewayServiceWatchProcedure:       {Gateway},
	apiv1.GatewayServiceWatchBlocksProcedure: {Gateway},
	apiv1.GatewayServiceRecordProcedure:      {Gateway},
	apiv1.GatewayServiceRenewProcedure:       {Gateway},

	apiv1.EnrollServiceEnrollProcedure: {Nobody, Gateway},

	apiv1.ControlServiceApplyProcedure:          {CLI},
	apiv1.ControlServicePlanProcedure:           {CLI},
	apiv1.ControlServiceStatusProcedure:         {CLI},
	apiv1.ControlServiceNodesProcedure:          {CLI},
	apiv1.ControlServiceHistoryProcedure:        {CLI},
	apiv1.ControlServiceLogsProcedure:           {CLI},
	apiv1.ControlServiceScaleProcedure:          {CLI},
	apiv1.ControlServiceDrainReplicaProcedure:   {CLI},
	apiv1.ControlServiceStopDeploymentProcedure: {CLI},
	apiv1.ControlServiceEndpointProcedure:       {CLI},
	apiv1.ControlServiceCreateKeyProcedure:      {CLI},
	apiv1.ControlServiceListKeysProcedure:       {CLI},
	apiv1.ControlServiceRevokeKeyProcedure:      {CLI},
	apiv1.ControlServiceEventsProcedure:         {CLI},
	apiv1.ControlServiceWhyProcedure:            {CLI},
	apiv1.ControlServiceVersionProcedure:        {CLI},
	apiv1.ControlServiceGatewayTokenProcedure:   {CLI},
	apiv1.ControlServiceKVProcedure:             {CLI},
	apiv1.ControlServiceShutdownProcedure:       {CLI},
}

// Allowed tells whether a role may make a call. procedure is Connect's name: /package.Service/Method.
func Allowed(role Role, procedure string) bool {
	return slices.Contains(callers[procedure], role)
}

// Authorize is Allowed with an error that says who asked for what. It wraps ErrNotAllowed, or ErrNoIdentity where a
// certificate would be needed to ask at all.
func Authorize(role Role, procedure string) error {
	switch {
	case Allowed(role, procedure):
		return nil
	case role == Nobody:
		return fmt.Errorf("%s: %w: it needs a client certificate", procedure, ErrNoIdentity)
	default:
		return fmt.Errorf("%s: %w for a %s", procedure, ErrNotAllowed, role)
	}
}
