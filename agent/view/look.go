package view

import (
	"time"

	"github.com/holdfast-dev/holdfast/job"
)

// Look is what one round of questions to the JobManager saw. Nothing in it is a conclusion.
type Look struct {
	// At is the agent's wall clock when the round began. It is shown to people and never measures.
	At job.Stamp
	// Now is the agent's own monotonic clock when the round ended, from any origin. It never falls from one look to the next.
	Now time.Duration
	// Took is how long the round took.
	Took time.Duration
	// Reach is how /jobs/overview ended. NotAsked is a round that its caller gave up: it says nothing.
	Reach job.Reach
	// Jobs are those of /jobs/overview; empty unless Reach is Fine.
	Jobs []Job
	// Asked are the jobs that were asked about one by one, each at most once.
	Asked []Asked
	// Causes are the failures that were asked for.
	Causes []Cause
	// Process is what the JobManager said of itself, after it had answered about its jobs; nil if it was not asked or
	// did not answer.
	Process *Process
}

// Job is one job as Flink lists it.
type Job struct {
	ID        string
	Name      string
	State     job.State
	StartTime job.Stamp
	EndTime   job.Stamp
	Tasks     job.Tasks
}

// Asked is how a question about one job ended.
type Asked struct {
	ID string
	// Known is Yes if Flink gave State, No if it could not find the job, and Unanswered if it could not be asked.
	Known job.Answer
	State job.State
	// StartTime and EndTime are given where the attempt was asked for too; "" where only the state is known.
	StartTime, EndTime job.Stamp
	// Reach says how an unanswered question ended.
	Reach job.Reach
}

// Cause is how the question for a job's failure ended.
type Cause struct {
	ID string
	// Answered says that Flink gave Text, which may be "".
	Answered bool
	Text     string
}

// Process is what a JobManager says of itself.
type Process struct {
	// Incarnation names one life of the process; "" if the JobManager does not tell.
	Incarnation      string
	FlinkVersion     string
	HighAvailability job.Answer
	// Application says whether the cluster runs one application, which then is what its owner calls "my job".
	Application job.Answer
}

// Questions are what a look has to ask besides /jobs/overview, each list in the order in which to ask.
type Questions struct {
	// Status are the jobs to ask about one by one.
	Status []string
	// Causes are the failed jobs whose failure is not known yet.
	Causes []string
	// Process says whether to ask the JobManager about itself, provided that it answered anything.
	Process bool
}
