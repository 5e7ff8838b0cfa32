// Package limits knows what namespaces allow their pods: their LimitRanges and ResourceQuotas, from watches, so that an admission need not
// wait for them. It decides nothing, and what it cannot watch it does not know.
package limits

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/holdfast-dev/holdfast/webhook"
)

// Watch watches from Run on. It is safe for concurrent use.
type Watch struct {
	log   *slog.Logger
	feeds map[string]*feed // by namespace; all are under ""
}

// feed is what is watched of one namespace, or of all.
type feed struct {
	namespace string
	factory   informers.SharedInformerFactory
	ranges    listers.LimitRangeLister
	quotas    listers.ResourceQuotaLister
	// rangesKnown and quotasKnown say whether the lists are complete.
	rangesKnown, quotasKnown cache.InformerSynced
	complained               atomic.Bool
}

// New makes a watch of some namespaces, or of all if none is named.
func New(client kubernetes.Interface, namespaces []string, log *slog.Logger) *Watch {
	if len(namespaces) == 0 {
		namespaces = []string{metav1.NamespaceAll}
	}
	w := &Watch{log: log, feeds: map[string]*feed{}}
	for _, namespace := range namespaces {
		factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace), informers.WithTransform(slim))
		ranges, quotas := factory.Core().V1().LimitRanges(), factory.Core().V1().ResourceQuotas()
		f := &feed{
			namespace: namespace, factory: factory, ranges: ranges.Lister(), quotas: quotas.Lister(),
			rangesKnown: ranges.Informer().HasSynced, quotasKnown: quotas.Informer().HasSynced,
		}
		for what, informer := range map[string]cache.SharedIndexInformer{"LimitRanges": ranges.Informer(), "ResourceQuotas": quotas.Informer()} {
			// It fails for an informer that runs already, and these do not.
			_ = informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) { w.heard(ctx, f, what, err) })
		}
		w.feeds[namespace] = f
	}
	return w
}

// slim drops what is large and not looked at.
func slim(obj any) (any, error) {
	if of, err := meta.Accessor(obj); err == nil {
		of.SetManagedFields(nil)
		of.SetAnnotations(nil)
	}
	return obj, nil
}

// heard logs once that something cannot be watched. A watch that ended in order is no failure.
func (w *Watch) heard(ctx context.Context, f *feed, what string, err error) {
	if ctx.Err() != nil || f.rangesKnown() && f.quotasKnown() || f.complained.Swap(true) {
		return
	}
	w.log.Warn("cannot see what namespaces allow their pods: one whose LimitRange or quota has no room for an agent may refuse pods",
		"what", what, "namespace", f.namespace, "error", err)
}

// Run watches until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, f := range w.feeds {
		all.Go(func() {
			f.factory.StartWithContext(ctx)
			<-ctx.Done()
			f.factory.Shutdown()
		})
	}
	all.Wait()
}

// Of gives what is known of a namespace. It does not wait.
func (w *Watch) Of(namespace string) (known webhook.Limits) {
	f := w.feeds[namespace]
	if f == nil {
		f = w.feeds[metav1.NamespaceAll]
	}
	if f == nil {
		return known
	}
	if f.rangesKnown() {
		if all, err := f.ranges.LimitRanges(namespace).List(labels.Everything()); err == nil {
			known.Ranges = make([]corev1.LimitRange, len(all))
			for i, one := range all {
				known.Ranges[i] = *one
			}
		}
	}
	if f.quotasKnown() {
		if all, err := f.quotas.ResourceQuotas(namespace).List(labels.Everything()); err == nil {
			known.Quotas = make([]corev1.ResourceQuota, len(all))
			for i, one := range all {
				known.Quotas[i] = *one
			}
		}
	}
	return known
}
