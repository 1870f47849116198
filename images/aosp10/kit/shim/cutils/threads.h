/* A value for each thread, as AOSP 10's libcutils had it and AOSP 14's has not. A store begins as zeros. */
#pragma once
#include <pthread.h>

typedef struct {
    pthread_mutex_t lock;
    int made;
    pthread_key_t key;
} thread_store_t;

static inline void *thread_store_get(thread_store_t *store)
{
    return store->made ? pthread_getspecific(store->key) : NULL;
}

static inline void thread_store_set(thread_store_t *store, void *value, void (*destroy)(void *))
{
    pthread_mutex_lock(&store->lock);
    if (!store->made)
        store->made = pthread_key_create(&store->key, destroy) == 0;
    pthread_mutex_unlock(&store->lock);
    if (store->made)
        pthread_setspecific(store->key, value);
}
