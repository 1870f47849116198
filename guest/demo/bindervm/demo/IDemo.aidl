package bindervm.demo;

/** A small service that shows each common shape of a binder call. */
interface IDemo {
    /** Gives `text` back. */
    @utf8InCpp String echo(@utf8InCpp String text);
    /** a + b; a value beyond 32 bits is refused with ILLEGAL_ARGUMENT. */
    int add(int a, int b);
    /** The sum of the bytes, each taken as 0..255. */
    int sum(in byte[] bytes);
    /** Ends the service's process before it replies: the caller sees DEAD_OBJECT. */
    void die();
}
