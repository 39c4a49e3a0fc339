-- PostgreSQL. Runs after the load: building an index once is quicker than keeping it row by row.

alter table users
    add primary key (id);

alter table products
    add primary key (id),
    add unique (stock_code);

alter table orders
    add primary key (id),
    add unique (invoice_no),
    add foreign key (user_id) references users;

alter table order_items
    add primary key (id),
    add foreign key (order_id) references orders,
    add foreign key (product_id) references products;

create index on orders (user_id);
create index on orders (updated_at);
create index on order_items (order_id);
create index on order_items (product_id);
create index on order_items (updated_at);

-- Traffic goes on where the history ends.
select
    setval(pg_get_serial_sequence('users', 'id'), (select max(id) from users)),
    setval(pg_get_serial_sequence('products', 'id'), (select max(id) from products)),
    setval(pg_get_serial_sequence('orders', 'id'), (select max(id) from orders)),
    setval(pg_get_serial_sequence('order_items', 'id'), (select max(id) from order_items));

analyze users, products, orders, order_items;
