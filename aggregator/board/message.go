package board

import (
	"strconv"
	"time"

	"github.com/holdfast-dev/holdfast/job"
)

// A message tells people why a verdict is what it is. It is made when it is served, since it has ages in it. An age is
// the difference between this server's clock and a witness's: good enough to read, and nothing is decided by it.

// A silence is why a verdict is held, with and without the time since the last sign.
type silence struct{ since, plain string }

// silences are the reasons for which a verdict is held: with the time since the last sign, and without it, where nobody
// told when that was.
var silences = map[job.Reason]silence{
	job.AgentSilent: {"the agent has been silent for ", "the agent is silent"},
	job.AgentLeft: {
		"the agent said goodbye, and nobody has spoken of this job for ",
		"the agent said goodbye, and nobody speaks of this job",
	},
	job.AgentStale: {
		"the agent has started anew, and nobody has spoken of this job for ",
		"the agent has started anew, and has not spoken of this job yet",
	},
	job.JobManagerUnreachable: {
		"the agent lives, but has had no answer from the JobManager beside it for ",
		"the agent lives, but gets no answer from the JobManager beside it",
	},
	job.JobUnanswered: {
		"the JobManager answers, but has said nothing of this job for ",
		"the JobManager answers, but says nothing of this job",
	},
	job.JobMissing: {
		"the JobManager says that it does not know this job, and nobody has seen it for ",
		"the JobManager says that it does not know this job",
	},
	job.StoreUnreachable: {"etcd could not be read for ", "etcd could not be read"},
	job.KubernetesSilent: {"the API server has not been heard for ", "the API server is not heard"},
	job.NoSettler:        {"no aggregator has judged for ", "no aggregator judges"},
}

// outside is the silence of a JobManager that only the settler asked, from outside its pod.
var outside = silence{
	"the JobManager, asked from outside its pod, has not answered for ",
	"the JobManager, asked from outside its pod, does not answer",
}

// appendMessage appends the message, which needs no more escaping for JSON.
func (v *View) appendMessage(dst []byte, j *Job) []byte {
	switch {
	case j.unreadable == Newer:
		dst = append(dst, "this server is too old to read the newest record of this job, upgrade it"...)
	case j.unreadable != Readable:
		dst = append(dst, "the newest record of this job is damaged and cannot be read"...)
	case v.lowers(j):
		dst = v.weakness.append(dst, v.now)
	case j.reason == job.FlinkSaid:
		return j.appendCause(j.appendClaim(dst, j.over != job.Yes && j.certainty == job.Witnessed))
	case j.reason == job.Vanished:
		return j.appendEndings(append(dst, "this attempt cannot run again, and nobody saw how it ended"...))
	case j.reason == job.Replaced:
		return j.appendEndings(append(dst, "its pipeline runs a newer job, and nobody saw how this one ended"...))
	case j.reason == job.JobManagerDown:
		return append(dst, "no JobManager of its cluster runs; one that comes may take the job up again"...)
	case j.reason == job.ContainerExited && j.state == job.Unknown:
		return j.appendEndings(append(dst, "nobody saw how it ended, and the JobManager's exit code does not tell"...))
	case j.reason == job.ContainerExited:
		return append(append(dst, "nobody saw how it ended; the exit code of the JobManager says "...), j.state.String()...)
	case j.reason == job.AlreadyDone:
		return j.appendEndings(append(dst, "Flink refuses the job, since it ended in an earlier life of the cluster, and does not say how"...))
	default:
		text, known := silences[j.reason]
		if j.reason == job.JobManagerUnreachable && j.via == job.ViaProbe {
			text = outside
		}
		switch {
		case !known:
			dst = append(append(dst, "the last known state is held: "...), j.reason.String()...)
		case j.seen > 0 && v.millis > j.seen:
			dst = appendAge(append(dst, text.since...), time.Duration(v.millis-j.seen)*time.Millisecond)
		default:
			dst = append(dst, text.plain...)
		}
	}
	if j.state == job.Unknown {
		return append(dst, "; the state was not known before that"...)
	}
	dst = j.appendClaim(append(dst, "; "...), false)
	return j.appendCause(append(dst, " before that"...))
}

// append says which part of S13 holds, and since when by this server's own clock.
func (w *Weakness) append(dst []byte, now time.Time) []byte {
	if w.Reason == job.NoSettler {
		dst = append(dst, "no aggregator has judged for "...)
	} else {
		dst = append(dst, "this server has been cut off from etcd for "...)
	}
	dst = appendAge(dst, now.Sub(w.Since))
	dst = append(dst, ", since "...)
	return w.Since.UTC().AppendFormat(dst, time.RFC3339)
}

// appendClaim says who gave the state.
func (j *Job) appendClaim(dst []byte, present bool) []byte {
	if j.state == job.Unknown {
		return append(dst, "the state is not known"...)
	}
	switch j.via {
	case job.ViaREST:
		dst = append(dst, "Flink"...)
	case job.ViaArchive:
		dst = append(dst, "Flink's archive"...)
	case job.ViaLastWords:
		dst = append(dst, "Flink, by the agent's last words,"...)
	case job.ViaProbe:
		dst = append(dst, "Flink, asked from outside its pod,"...)
	case job.ViaExitCode:
		dst = append(dst, "the JobManager's exit code"...)
	case job.ViaWorkload:
		dst = append(dst, "what Kubernetes runs of the cluster"...)
	default:
		dst = append(dst, "the last known source"...)
	}
	if present {
		dst = append(dst, " says "...)
	} else {
		dst = append(dst, " said "...)
	}
	return append(dst, j.state.String()...)
}

func (j *Job) appendCause(dst []byte) []byte {
	if cause := j.piece(pieceCause); cause != "" {
		dst = append(append(dst, ": "...), cause...)
	}
	return dst
}

func (j *Job) appendEndings(dst []byte) []byte {
	if possible := j.piece(piecePossible); possible != "" {
		dst = append(append(dst, "; it may have been "...), possible...)
	}
	return dst
}

// appendAge appends a duration as people say it: the two largest units.
func appendAge(dst []byte, age time.Duration) []byte {
	s := int64(max(age, 0) / time.Second)
	part := func(n int64, unit byte) { dst = append(strconv.AppendInt(dst, n, 10), unit) }
	switch {
	case s < 60:
		part(s, 's')
	case s < 3600:
		part(s/60, 'm')
		part(s%60, 's')
	case s < 86400:
		part(s/3600, 'h')
		part(s/60%60, 'm')
	default:
		part(s/86400, 'd')
		part(s/3600%24, 'h')
	}
	return dst
}
