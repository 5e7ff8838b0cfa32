package kube

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/holdfast-dev/holdfast/evidence"
)

// Kind tells updates apart.
type Kind uint8

const (
	// Listed gives all pods. It comes first, and again after Lost.
	Listed Kind = iota
	// Changed gives pods that are new or changed, and those that are gone.
	Changed
	// Alive proves that all has been told, as of a moment ago.
	Alive
	// Lost says that what comes is not all any more, and why.
	Lost
)

// Update is what is told of the pods.
type Update struct {
	Kind Kind
	Pods []evidence.Pod
	// Gone are the pods that are not there any more: the API server was asked for each by name.
	Gone []evidence.Agent
	Err  error
}

// Identity is what a pod says of itself.
type Identity struct {
	evidence.Pod
	// Container is the JobManager's.
	Container string
}

// PodsOptions say which pods are followed. Client, Selectors and Identify are required.
type PodsOptions struct {
	Client kubernetes.Interface
	// Namespaces are followed one by one; nil follows all at once.
	Namespaces []string
	// Selectors are label selectors. A pod that any of them takes is followed.
	Selectors []string
	// Identify reads what does not change in a pod: its cluster, port and container. false leaves the pod out.
	Identify func(*corev1.Pod) (Identity, bool)
	// Owners finds the outermost workload of a pod. May be nil.
	Owners *Owners

	pace pace // usual, but in tests
}

// pace is how patient a follower is.
type pace struct {
	// page bounds what one answer of the API server holds, in pods, and pageTimeout how long it may take.
	page        int64
	pageTimeout time.Duration
	// turnover is how long a watch lasts, in whole seconds. Each new one proves that the API server can be asked: a watch that is silent proves
	// nothing. overtime is how much longer one may last: the API server ends it in time, if it lives.
	turnover, overtime time.Duration
	// patience is for how long a watch may fail before what it tells is not all any more.
	patience time.Duration
	// alive is how often Alive is told, at most.
	alive time.Duration
	// stray is how often a pod is asked for that left every selector and is still there.
	stray time.Duration
}

var usual = pace{
	page: 500, pageTimeout: time.Minute, turnover: 25 * time.Second, overtime: 10 * time.Second, patience: 15 * time.Second,
	alive: 5 * time.Second, stray: 10 * time.Second,
}

// FollowPods tells of the pods until ctx ends. tell is called from one goroutine, and may wait.
//
// It is no informer: those keep every object, do not notice a watch that has died in silence, and take for deleted what only left
// their selector. Here a pod is gone when the API server, asked by name, says so.
func FollowPods(ctx context.Context, o PodsOptions, tell func(Update)) {
	if o.pace.page == 0 {
		o.pace = usual
	}
	f := &follower{o: o, tell: tell, pods: map[types.UID]*followed{}, sights: make(chan sight)}
	namespaces := o.Namespaces
	if namespaces == nil {
		namespaces = []string{metav1.NamespaceAll}
	}
	for _, namespace := range namespaces {
		for _, selector := range o.Selectors {
			f.views = append(f.views, &view{namespace: namespace, selector: selector, follower: f, number: len(f.views)})
		}
	}
	f.run(ctx)
}

// follower brings the views together: a pod may stand in several, or leave one for another.
type follower struct {
	o      PodsOptions
	tell   func(Update)
	views  []*view
	pods   map[types.UID]*followed
	sights chan sight

	whole  bool // all has been told, and nothing was lost since
	told   time.Time
	asking int // questions by name that are under way
}

// followed is one pod.
type followed struct {
	evidence.Pod
	container string
	in        map[int]bool // the views that it stands in
	asked     bool         // whether it is there, by name
	due       time.Time    // when it is asked for again; zero while a view shows it
}

// sight is what a view, or a question by name, brings.
type sight struct {
	view    *view
	listed  []*corev1.Pod // all, if not nil
	pod     *corev1.Pod
	deleted bool
	alive   bool
	err     error
	// named is the pod that was asked for by name. Then pod is what is there, if anything is.
	named types.UID
	// owned is a pod whose workload was found.
	owned types.UID
}

func (f *follower) run(ctx context.Context) {
	done := make(chan struct{})
	for _, v := range f.views {
		go func() { v.run(ctx); done <- struct{}{} }()
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for running := len(f.views); running > 0 || f.asking > 0; {
		select {
		case s := <-f.sights:
			f.take(ctx, s)
		case <-tick.C:
			f.askStrays(ctx)
			f.judge()
		case <-done:
			running--
		}
	}
}

func (f *follower) take(ctx context.Context, s sight) {
	now := time.Now()
	var changed Update
	changed.Kind = Changed
	switch {
	case s.named != "":
		f.asking--
		f.answered(s, &changed)
	case s.owned != "":
		f.asking--
		if p := f.pods[s.owned]; p != nil {
			if w, known := f.o.Owners.known(s.owned); known && p.Workload != w {
				p.Workload = w
				changed.Pods = append(changed.Pods, p.Pod)
			}
		}
	case s.err != nil:
		if s.view.failing.IsZero() {
			s.view.failing = now
		}
		s.view.err = s.err
	default:
		s.view.failing, s.view.err, s.view.alive = time.Time{}, nil, now
		switch {
		case s.listed != nil:
			s.view.synced = true
			there := map[types.UID]bool{}
			for _, pod := range s.listed {
				there[pod.UID] = true
				f.shown(ctx, s.view, pod, &changed)
			}
			for uid, p := range f.pods {
				if p.in[s.view.number] && !there[uid] {
					f.left(p, s.view)
				}
			}
		case s.deleted:
			f.shown(ctx, s.view, s.pod, &changed) // the last state of what is deleted tells how its containers ended
			if p := f.pods[s.pod.UID]; p != nil {
				f.left(p, s.view)
			}
		case s.pod != nil:
			f.shown(ctx, s.view, s.pod, &changed)
		}
	}
	if f.whole && len(changed.Pods)+len(changed.Gone) > 0 {
		f.tell(changed)
	}
	f.askStrays(ctx)
	f.judge()
}

// shown takes a pod that a view shows.
func (f *follower) shown(ctx context.Context, v *view, pod *corev1.Pod, changed *Update) {
	id, ok := f.o.Identify(pod)
	if !ok {
		return
	}
	p := f.pods[pod.UID]
	if p == nil {
		p = &followed{in: map[int]bool{}}
		f.pods[pod.UID] = p
	}
	p.in[v.number], p.due = true, time.Time{}
	f.update(ctx, p, pod, id, changed)
}

func (f *follower) update(ctx context.Context, p *followed, pod *corev1.Pod, id Identity, changed *Update) {
	was := p.Pod
	p.Pod, p.container = state(pod, id), id.Container
	p.Workload = was.Workload
	if f.o.Owners != nil && p.Workload.Name == "" {
		if w, known := f.o.Owners.known(pod.UID); known {
			p.Workload = w
		} else if f.o.Owners.begin(pod) {
			f.asking++
			go func() {
				f.o.Owners.find(ctx, pod)
				f.sights <- sight{owned: pod.UID}
			}()
		}
	}
	if p.Pod != was {
		changed.Pods = append(changed.Pods, p.Pod)
	}
}

// left notes that a view does not show a pod any more. Where none does, it is asked for by name.
func (f *follower) left(p *followed, v *view) {
	delete(p.in, v.number)
	if len(p.in) == 0 && p.due.IsZero() {
		p.due = time.Now()
	}
}

// askStrays asks for the pods that no view shows.
func (f *follower) askStrays(ctx context.Context) {
	const most = 16 // at a time
	now := time.Now()
	for uid, p := range f.pods {
		if f.asking >= most || ctx.Err() != nil {
			return
		}
		if p.asked || p.due.IsZero() || now.Before(p.due) {
			continue
		}
		p.asked = true
		f.asking++
		namespace, name := p.Agent.Namespace, p.Name
		go func() {
			ctx, cancel := context.WithTimeout(ctx, askTimeout)
			defer cancel()
			pod, err := f.o.Client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
			f.sights <- sight{named: uid, pod: pod, err: err}
		}()
	}
}

// answered takes the answer to a question by name.
func (f *follower) answered(s sight, changed *Update) {
	p := f.pods[s.named]
	if p == nil {
		return
	}
	p.asked = false
	switch {
	case len(p.in) > 0: // a view shows it again
	case apierrors.IsNotFound(s.err), s.err == nil && s.pod.UID != s.named:
		delete(f.pods, s.named)
		if f.o.Owners != nil {
			f.o.Owners.forget(s.named)
		}
		changed.Gone = append(changed.Gone, p.Agent)
	default:
		p.due = time.Now().Add(f.o.pace.stray)
		if s.err != nil {
			return // not answered
		}
		// It left the selectors, and it is there. What it was identified as, it stays.
		was := p.Pod
		p.Pod = state(s.pod, Identity{Pod: p.Pod, Container: p.container})
		if p.Pod != was {
			changed.Pods = append(changed.Pods, p.Pod)
		}
	}
}

// judge tells whether the views, together, show all.
func (f *follower) judge() {
	now, oldest := time.Now(), time.Now()
	for _, v := range f.views {
		switch {
		case !v.failing.IsZero() && (!v.synced || now.Sub(v.failing) > f.o.pace.patience):
			if f.whole || f.told.IsZero() || now.Sub(f.told) > time.Minute {
				f.whole, f.told = false, now
				f.tell(Update{Kind: Lost, Err: v.err})
			}
			return
		case !v.synced:
			return
		}
		if v.alive.Before(oldest) {
			oldest = v.alive
		}
	}
	switch {
	case !f.whole:
		f.whole, f.told = true, now
		all := Update{Kind: Listed}
		for _, p := range f.pods {
			all.Pods = append(all.Pods, p.Pod)
		}
		f.tell(all)
	case oldest.Sub(f.told) > 0 && now.Sub(f.told) >= f.o.pace.alive:
		f.told = now
		f.tell(Update{Kind: Alive})
	}
}

// view is one selector in one namespace, or in all.
type view struct {
	namespace, selector string
	number              int
	follower            *follower

	// What the follower knows of it.
	synced  bool
	alive   time.Time
	failing time.Time
	err     error
}

// run lists, and watches from there, until ctx ends.
func (v *view) run(ctx context.Context) {
	pause := pauses{}
	for ctx.Err() == nil {
		version, err := v.list(ctx)
		for err == nil && ctx.Err() == nil {
			version, err = v.watch(ctx, version)
			switch {
			case err == nil:
				pause = pauses{}
			case expired(err):
				// What changed meanwhile nobody tells any more: it is listed again.
			default:
				v.say(ctx, sight{view: v, err: err})
				pause.sleep(ctx)
				err = nil // from where it ended
			}
		}
		if err != nil && ctx.Err() == nil && !expired(err) {
			v.say(ctx, sight{view: v, err: err})
			pause.sleep(ctx)
		}
	}
}

// expired says that a version is too old to begin from.
func expired(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }

func (v *view) say(ctx context.Context, s sight) {
	select {
	case v.follower.sights <- s:
	case <-ctx.Done():
	}
}

// list asks for all pods, page by page, and gives the version that they were of.
func (v *view) list(ctx context.Context) (version string, err error) {
	all := []*corev1.Pod{}
	options := metav1.ListOptions{LabelSelector: v.selector, Limit: v.follower.o.pace.page}
	for {
		page, err := v.page(ctx, options)
		if err != nil {
			return "", v.explain("list", err)
		}
		for i := range page.Items {
			all = append(all, page.Items[i].DeepCopy()) // a page is let go of as a whole
		}
		version, options.Continue = page.ResourceVersion, page.Continue
		if options.Continue == "" {
			v.say(ctx, sight{view: v, listed: all})
			return version, nil
		}
	}
}

func (v *view) page(ctx context.Context, options metav1.ListOptions) (*corev1.PodList, error) {
	ctx, cancel := context.WithTimeout(ctx, v.follower.o.pace.pageTimeout)
	defer cancel()
	return v.follower.o.Client.CoreV1().Pods(v.namespace).List(ctx, options)
}

// watch follows one watch to its end, and gives the version up to which it told all.
func (v *view) watch(ctx context.Context, version string) (string, error) {
	p := v.follower.o.pace
	ctx, cancel := context.WithTimeout(ctx, p.turnover+p.overtime)
	defer cancel()
	seconds := int64((p.turnover - rand.N(p.turnover/5)) / time.Second) // not all of them at once
	w, err := v.follower.o.Client.CoreV1().Pods(v.namespace).Watch(ctx, metav1.ListOptions{
		LabelSelector: v.selector, ResourceVersion: version, AllowWatchBookmarks: true, TimeoutSeconds: &seconds,
	})
	if err != nil {
		return version, v.explain("watch", err)
	}
	defer w.Stop()
	v.say(ctx, sight{view: v, alive: true})
	for {
		select {
		case event, open := <-w.ResultChan():
			if !open {
				return version, nil // in time, or cut off: the next one tells
			}
			if event.Type == watch.Error {
				return version, v.explain("watch", apierrors.FromObject(event.Object))
			}
			pod, is := event.Object.(*corev1.Pod)
			if !is {
				return version, v.explain("watch", fmt.Errorf("the API server sent a %T", event.Object))
			}
			version = pod.ResourceVersion
			if event.Type == watch.Bookmark {
				v.say(ctx, sight{view: v, alive: true})
			} else {
				v.say(ctx, sight{view: v, pod: pod, deleted: event.Type == watch.Deleted})
			}
		case <-ctx.Done():
			return version, v.explain("watch", errors.New("the API server is silent"))
		}
	}
}

func (v *view) explain(verb string, err error) error {
	where := "all namespaces"
	if v.namespace != metav1.NamespaceAll {
		where = "namespace " + v.namespace
	}
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("may not %s pods of %s: give the aggregator's role get, list and watch of pods (rbac.scope of the chart): %w", verb, where, err)
	}
	return fmt.Errorf("%s pods of %s: %w", verb, where, err)
}

// pauses grow from one to the next: 1 s to 30 s, with jitter.
type pauses struct{ next time.Duration }

func (p *pauses) sleep(ctx context.Context) {
	p.next = min(max(2*p.next, time.Second), 30*time.Second)
	timer := time.NewTimer(p.next/2 + rand.N(p.next/2))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
