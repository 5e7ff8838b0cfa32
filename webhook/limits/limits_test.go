package limits

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func rangeOf(namespace, name string) *corev1.LimitRange {
	return &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: name, Annotations: map[string]string{"large": "text"},
		ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
	}}
}

func quotaOf(namespace, name string) *corev1.ResourceQuota {
	return &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

// output is a log that is read while it is written.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// watching runs a watch until the test ends.
func watching(t *testing.T, client *fake.Clientset, namespaces ...string) (*Watch, *output) {
	t.Helper()
	log := &output{}
	w := New(client, namespaces, slog.New(slog.NewTextHandler(log, nil)))
	if got := w.Of("team-a"); got.Ranges != nil || got.Quotas != nil {
		t.Errorf("before it runs, it knows %+v", got)
	}
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { w.Run(ctx) })
	t.Cleanup(func() {
		stop()
		all.Wait()
	})
	return w, log
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// seen is what is known of a namespace, in words; a question mark is for what is not known.
func seen(w *Watch, namespace string) string {
	known := w.Of(namespace)
	var words []string
	if known.Ranges == nil {
		words = append(words, "?")
	}
	for _, one := range known.Ranges {
		words = append(words, one.Name)
	}
	words = append(words, "/")
	if known.Quotas == nil {
		words = append(words, "?")
	}
	for _, one := range known.Quotas {
		words = append(words, one.Name)
	}
	return strings.Join(words, " ")
}

func TestKnowsEachNamespace(t *testing.T) {
	client := fake.NewClientset(rangeOf("team-a", "range"), quotaOf("team-a", "quota"), quotaOf("team-b", "other"))
	w, log := watching(t, client)
	eventually(t, "team-a", func() bool { return seen(w, "team-a") == "range / quota" })
	eventually(t, "team-b", func() bool { return seen(w, "team-b") == "/ other" })
	if got := seen(w, "team-c"); got != "/" {
		t.Errorf("of a namespace without any: %q", got)
	}
	if _, err := client.CoreV1().ResourceQuotas("team-c").Create(t.Context(), quotaOf("team-c", "new"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new one", func() bool { return seen(w, "team-c") == "/ new" })
	if err := client.CoreV1().LimitRanges("team-a").Delete(t.Context(), "range", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one that is gone", func() bool { return seen(w, "team-a") == "/ quota" })
	if log.String() != "" {
		t.Errorf("logged:\n%s", log)
	}
}

func TestKeepsLittle(t *testing.T) {
	w, _ := watching(t, fake.NewClientset(rangeOf("team-a", "range")))
	eventually(t, "team-a", func() bool { return len(w.Of("team-a").Ranges) == 1 })
	if got := w.Of("team-a").Ranges[0]; got.Annotations != nil || got.ManagedFields != nil {
		t.Errorf("kept is %+v", got.ObjectMeta)
	}
}

func TestOnlySomeNamespaces(t *testing.T) {
	w, _ := watching(t, fake.NewClientset(quotaOf("team-a", "one"), quotaOf("team-b", "two"), quotaOf("team-c", "three")), "team-a", "team-b")
	eventually(t, "team-a", func() bool { return seen(w, "team-a") == "/ one" })
	eventually(t, "team-b", func() bool { return seen(w, "team-b") == "/ two" })
	if got := seen(w, "team-c"); got != "? / ?" {
		t.Errorf("of a namespace that is not watched: %q", got)
	}
}

// What may not be seen is not known, and said once.
func TestForbidden(t *testing.T) {
	client := fake.NewClientset(rangeOf("team-a", "range"), quotaOf("team-a", "quota"))
	var asked atomic.Int64
	client.PrependReactor("list", "resourcequotas", func(clienttesting.Action) (bool, runtime.Object, error) {
		asked.Add(1)
		return true, nil, errors.New("forbidden")
	})
	w, log := watching(t, client)
	eventually(t, "the range", func() bool { return seen(w, "team-a") == "range / ?" })
	eventually(t, "a complaint", func() bool { return log.String() != "" })
	eventually(t, "it asks again and again", func() bool { return asked.Load() >= 3 }) // it heard of two at least
	if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), "what=ResourceQuotas") {
		t.Errorf("logged %d times:\n%s", n, log)
	}
}
