package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
)

// The default StorageClass, and how many volumes of it there are. They are made beforehand and bound when a pod is there to use
// them, as Kubernetes' documentation has it for local volumes; fsGroup works with them as with any disk.
const (
	storageClass = "standard"
	volumeCount  = 30
	volumeSize   = "20Gi" // said, and not enforced
)

type object = map[string]any

func (n *Node) makeStorageClass(ctx context.Context, api *api) error {
	return api.create(ctx, "/apis/storage.k8s.io/v1/storageclasses", object{
		"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
		"metadata": object{
			"name":        storageClass,
			"annotations": object{"storageclass.kubernetes.io/is-default-class": "true"},
		},
		"provisioner":       "kubernetes.io/no-provisioner",
		"volumeBindingMode": "WaitForFirstConsumer",
	})
}

// renewVolumes makes the volumes that are not there, and makes those empty and free that nobody claims any more.
func (n *Node) renewVolumes(ctx context.Context) error {
	api, err := n.api()
	if err != nil {
		return err
	}
	for i := range volumeCount {
		if err := n.renewVolume(ctx, api, fmt.Sprintf("volume-%d", i)); err != nil {
			return fmt.Errorf("make %s ready for use: %w", fmt.Sprintf("volume-%d", i), err)
		}
	}
	return nil
}

func (n *Node) renewVolume(ctx context.Context, api *api, name string) error {
	const volumes = "/api/v1/persistentvolumes"
	var volume struct{ Status struct{ Phase string } }
	err := api.do(ctx, http.MethodGet, volumes+"/"+name, nil, &volume)
	if err != nil && !errors.Is(err, errNotThere) {
		return err
	}
	if err == nil && volume.Status.Phase != "Released" && volume.Status.Phase != "Failed" {
		return nil
	}
	if err := api.remove(ctx, volumes+"/"+name); err != nil {
		return err
	}
	err = n.await(ctx, name+" is gone", func(ctx context.Context) error {
		err := api.do(ctx, http.MethodGet, volumes+"/"+name, nil, nil)
		if errors.Is(err, errNotThere) {
			return nil
		}
		return errors.Join(errors.New("it is still there"), err)
	})
	if err != nil {
		return err
	}
	dir := n.path("volumes", name)
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return api.create(ctx, volumes, object{
		"apiVersion": "v1", "kind": "PersistentVolume",
		"metadata": object{"name": name},
		"spec": object{
			"capacity":                      object{"storage": volumeSize},
			"accessModes":                   []string{"ReadWriteOnce", "ReadWriteMany"},
			"persistentVolumeReclaimPolicy": "Retain",
			"storageClassName":              storageClass,
			"local":                         object{"path": dir},
			"nodeAffinity": object{"required": object{"nodeSelectorTerms": []object{{
				"matchExpressions": []object{{"key": "kubernetes.io/hostname", "operator": "In", "values": []string{n.name}}},
			}}}},
		},
	})
}
