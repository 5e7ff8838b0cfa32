package settle

// A site may have a hundred thousand jobs, and most of what is told of one is told several times: by its key, its agent's beat, its
// report and its verdict. What is equal shares its memory here, and what nobody will ask for again is let go.

// share lets a new report share what its witness and its job already hold.
func (s *sight) share(e *entry) {
	r, w := s.report, s.by
	r.Agent, r.JobID = w.agent, e.key.ID
	unify(&r.Session, w.beat.Session)
	unify(&r.Pod, w.beat.Pod)
	unify(&r.Incarnation, w.beat.Incarnation)
	unify(&r.Denier, w.beat.Incarnation)
	unify(&r.Pipeline, r.Name)
	for i := range r.Transitions {
		t := &r.Transitions[i]
		unify(&t.StartTime, r.StartTime)
		unify(&t.At, r.LastAnswer)
		unify(&t.At, r.StartTime)
	}
	unify(&r.LastAnswer, r.StartTime)
}

// share lets the verdict that counts share what the reports hold. Evidence is made anew whenever it is written, and transitions
// that are in the history are not asked for again, except the newest.
func (e *entry) share() {
	e.account.Key = e.key
	v, b := &e.account.Verdict, &e.account.Books
	v.Evidence = nil
	unify(&v.LastSeen, v.Since)
	for i := range e.sights {
		s := &e.sights[i]
		if s.report == nil {
			continue
		}
		r := s.report
		unify(&v.Name, r.Name)
		unify(&v.Attempt.StartTime, r.StartTime)
		for k := range b.Marks {
			unify(&b.Marks[k].Witness, s.name())
			n := len(r.Transitions)
			if n > 1 && b.Marks[k].Witness == s.name() && b.Marks[k].Number >= r.Transitions[n-1].Number {
				newest := r.Transitions[n-1]
				r.Transitions = append(r.Transitions[:0:0], newest)
			}
		}
		for k := range r.Transitions {
			unify(&v.Since, r.Transitions[k].At)
		}
	}
	unify(&v.Pipeline, v.Name)
	unify(&v.Pipeline, e.key.Cluster)
	if known := e.cluster.known; known != nil && b.Workload != nil && *b.Workload == *known {
		b.Workload = known
	}
}

// unify makes a text the very one that it equals.
func unify[T ~string](text *T, as T) {
	if *text == as {
		*text = as
	}
}
